//! Beside the line: what a role may do on a server. The owner of the tables migrates and archives; the service adds events
//! and cannot change or remove them. Pure: the owner runs what is written here.

use super::sql::APPEND_ONLY;

/// What the service's role may do to each table beside reading it. The contract suite runs under this role.
const TABLES: [(&str, &str); 51] = [
    ("anchors", "INSERT, UPDATE"),
    ("api_keys", "INSERT, UPDATE"),
    ("archiving", ""),
    ("attempts", "INSERT, UPDATE"),
    ("badges", "INSERT, UPDATE, DELETE"),
    ("batches", "INSERT"),
    ("bindings", "INSERT, DELETE"),
    ("boots", "INSERT, UPDATE"),
    ("captured", "INSERT, DELETE"),
    ("card_profiles", "INSERT, DELETE"),
    ("certificates", "INSERT, UPDATE, DELETE"),
    ("commands", "INSERT, UPDATE, DELETE"),
    ("controllers", "INSERT, UPDATE"),
    ("dead_counts", "INSERT, UPDATE"),
    ("dead_letters", "INSERT, DELETE"),
    ("deliveries", "INSERT, UPDATE"),
    ("delivery_counts", "INSERT, UPDATE"),
    ("destinations", "INSERT, UPDATE"),
    ("differences", "INSERT, UPDATE, DELETE"),
    ("enroll_tokens", "INSERT, UPDATE"),
    ("events", "INSERT"),
    ("fetches", "INSERT, UPDATE"),
    ("fleet_log", "INSERT"),
    ("intake_claims", "INSERT, UPDATE"),
    ("opaque", "INSERT, UPDATE"),
    ("outbox_boots", "INSERT, UPDATE"),
    ("outboxes", "INSERT, UPDATE"),
    ("past_badges", ""),
    ("ranges", ""),
    ("record_keys", "INSERT, UPDATE"),
    ("replay_rows", "INSERT, UPDATE"),
    ("replays", "INSERT, UPDATE"),
    ("rereading", "UPDATE"),
    ("revocations", "INSERT, UPDATE"),
    ("revoked_outboxes", "INSERT, DELETE"),
    ("roster", "UPDATE"),
    ("schema_version", ""),
    ("seals", "INSERT, UPDATE"),
    ("segment_deliveries", ""),
    ("segment_outboxes", ""),
    ("segments", ""),
    ("signers", "INSERT"),
    ("site_rules", "INSERT"),
    ("sites", "INSERT, UPDATE"),
    ("sources", "INSERT"),
    ("standings", "INSERT, UPDATE"),
    ("store", "UPDATE"),
    ("taps", "INSERT, UPDATE"),
    ("ticks", "UPDATE"),
    ("troubles", "INSERT, UPDATE, DELETE"),
    ("watermarks", "INSERT, UPDATE"),
];

/// What the owner runs, after each migration, to let the service's role do its work and no more. `schema` is where the tables
/// are.
pub fn grants(schema: &str, service: &str) -> String {
    let (schema, service) = (quoted(schema), quoted(service));
    let mut sql = format!(
        "-- The tables' owner runs this, now and after each `cloud-ingest store migrate`.\n\
         -- The role must be there: CREATE ROLE {service} LOGIN;\n\
         BEGIN;\n\
         REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;\n\
         GRANT USAGE ON SCHEMA {schema} TO {service};\n\
         REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {service};\n"
    );
    for (table, rights) in TABLES {
        debug_assert!(
            !APPEND_ONLY.contains(&table) || rights == "INSERT" || rights.is_empty(),
            "{table} is append-only"
        );
        let more = if rights.is_empty() { String::new() } else { format!(", {rights}") };
        sql.push_str(&format!("GRANT SELECT{more} ON {schema}.{table} TO {service};\n"));
    }
    sql.push_str(&format!("GRANT EXECUTE ON FUNCTION {schema}.make_ranges() TO {service};\nCOMMIT;\n"));
    sql
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_store::UtcMs;
    use crate::event_store::postgres::{Address, PostgresStore};

    #[test]
    fn every_table_has_its_line_and_append_only_ones_are_only_added_to() {
        let cluster = postgres_rig::shared();
        let database = cluster.new_database();
        let address = Address::new(&cluster.url(&database), None, None).unwrap();
        drop(PostgresStore::open(address, UtcMs(1)).unwrap());
        let tables = "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition \
             AND relnamespace = 'public'::regnamespace ORDER BY 1";
        let there = cluster.query(&database, tables).unwrap();
        let named: Vec<&str> = TABLES.iter().map(|(table, _)| *table).collect();
        assert_eq!(there.lines().collect::<Vec<_>>(), named, "a new table needs a line in TABLES");
        for table in APPEND_ONLY {
            let (_, rights) = TABLES.iter().find(|(named, _)| *named == table).unwrap();
            assert!(["", "INSERT"].contains(rights), "{table}");
        }
    }

    #[test]
    fn names_are_quoted() {
        assert!(grants("public", "odd\"name").contains("TO \"odd\"\"name\";"));
    }
}
