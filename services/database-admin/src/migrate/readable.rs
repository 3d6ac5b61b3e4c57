//! What may be read through `/db/query`: tables and columns, one by one. A column is here because someone thought about
//! it. Not here: hashes, secrets, keys, sealed values, payloads, log messages, addresses of people. Nothing is readable
//! by default, so a new table stays closed until it is added.

/// Columns of one table.
#[derive(Debug)]
pub(super) struct ReadableTable {
    /// Its schema; `*` means all seven.
    pub(super) schema: &'static str,
    /// Its name.
    pub(super) table: &'static str,
    /// The columns, separated by spaces.
    pub(super) columns: &'static str,
}

const fn table(schema: &'static str, table: &'static str, columns: &'static str) -> ReadableTable {
    ReadableTable { schema, table, columns }
}

/// The whole list.
pub(super) const READABLE: &[ReadableTable] = &[
    table("*", "outbox", "sequence routing_key created_at"),
    table("*", "revocations", "id kind subject value created_at published_in"),
    table("auth", "credentials", "user_id username disabled created_at updated_at password_changed_at"),
    table(
        "auth",
        "sessions",
        "user_id client_id created_at last_used_at idle_expires_at expires_at ended_at end_reason",
    ),
    table("auth", "signing_keys", "kid algorithm state created_at activated_at retiring_at removed_at"),
    table("auth", "clients", "client_id name grant_types permissions epoch created_by created_at updated_at"),
    table("auth", "audit", "sequence at kind subject actor"),
    table("users", "users", "id username disabled epoch version created_at updated_at"),
    table("users", "roles", "name description permissions epoch version created_at updated_at"),
    table("users", "role_inherits", "role inherits"),
    table("users", "role_closure", "role includes"),
    table("users", "assignments", "user_id role resource expires_at created_at"),
    table("users", "groups", "id name description epoch version created_at updated_at"),
    table("users", "group_members", "group_id user_id added_at"),
    table("users", "group_assignments", "group_id role resource expires_at created_at"),
    table("users", "permissions", "name service description declared_at"),
    table("logs", "lines", "seq day occurred_at received_at service level trace_id"),
    table("logs", "index_checkpoint", "seq updated_at"),
    table("logs", "quarantine", "id origin reason created_at"),
    table("logs", "sources", "name created_at updated_at"),
    table(
        "messaging",
        "topics",
        "topic_id name kind max_attempts backoff_ms lease_ms priority_levels partitions created_at",
    ),
    table("messaging", "consumer_groups", "group_id topic_id name created_at"),
    table("messaging", "stream_positions", "group_id partition next_offset"),
    table("messaging", "subscribers", "subscriber_id group_id instance_id seen_at"),
    table(
        "messaging",
        "deliveries",
        "delivery_id group_id message_id state due_at attempt priority published_at expires_at",
    ),
    table(
        "messaging",
        "pending_publishes",
        "sequence message_id topic_id broker due_at delayed priority published_at expires_at",
    ),
    table("router", "upstreams", "id name revision created_at updated_at"),
    table("router", "routes", "id name upstream_id revision created_at updated_at"),
    table("dbadmin", "backups", "id state started_at finished_at tables_done tables_total bytes sealed"),
    table("dbadmin", "query_audit", "at subject client_id outcome rule row_count duration_ms"),
];
