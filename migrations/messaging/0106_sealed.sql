-- topics whose payloads are sealed wherever they are kept, and which of the payloads that are kept are
alter table topics add column encrypted boolean not null default false;
alter table deliveries add column sealed boolean not null default false;
alter table pending_publishes add column sealed boolean not null default false;
alter table schedules add column sealed boolean not null default false;
-- of the reply
alter table requests add column sealed boolean not null default false;
