-- people: who they are, and the version of their rights
create table users (
    id uuid not null,
    username text not null,
    -- NFKC and lower case: two names are the same if their keys are
    username_key text not null,
    email text not null,
    email_key text not null,
    display_name text not null,
    -- keys and folded display name, for the text search of the list
    search text not null,
    disabled boolean not null default false,
    -- grows with every change of rights; a token of an earlier epoch is refused
    epoch bigint not null default 1,
    -- grows with every change of the person; the entity tag
    version bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint users_pkey primary key (id),
    constraint users_username_key_key unique (username_key),
    constraint users_email_key_key unique (email_key),
    constraint users_epoch_check check (epoch > 0),
    constraint users_version_check check (version > 0)
);
