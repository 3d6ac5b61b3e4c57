-- one number line for all changes of rights: a person's epoch is the greatest of their own, their groups' and their roles',
-- so that a change of a role is one number, however many people have it
create sequence rights_epoch as bigint;

select setval('rights_epoch', coalesce((select max(epoch) from users), 1));

alter table roles add column epoch bigint not null default 0;

-- epochs that many people get at once: a narrow table, because new versions of whole people would reach every index; and
-- without a reference, which would be looked up for each of them
create table bulk_epochs (
    user_id uuid not null,
    epoch bigint not null,
    constraint bulk_epochs_pkey primary key (user_id)
);

-- changes that concern many people: their own tokens are still to be named, for those that name no roles
create table fanouts (
    epoch bigint not null,
    -- whose holders, or whose members; neither: those who have this very epoch in bulk_epochs
    role text,
    group_id uuid,
    -- the last one that was named
    after uuid,
    constraint fanouts_pkey primary key (epoch)
);
