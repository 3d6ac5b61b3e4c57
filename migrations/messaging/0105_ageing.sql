-- in a queue with priorities, a message that waits gains one priority each time this passes; 0: never
alter table topics add column ageing_ms bigint not null default 0,
    add constraint topics_ageing_ms_check check (ageing_ms >= 0);
