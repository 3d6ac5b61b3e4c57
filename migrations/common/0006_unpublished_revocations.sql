-- those that no life of Redis has yet: looked for at every change of rights, so by an index that holds nothing else
create index revocations_unpublished_idx on revocations (created_at) where published_in is null;
