//! What the server means to do for the statements of every day, before it has counted anything.

use postgres_rig::shared;

use super::*;

const NOW: UtcMs = UtcMs(1_700_000_000_000);

/// What grows with the taps; a look at all of it takes longer with every day.
const GROWING: [&str; 8] =
    ["anchors", "attempts", "batches", "boots", "deliveries", "differences", "events", "taps"];

/// The server's plan for whatever values, a line per step.
fn plan(client: &mut Client, statement: &str) -> Vec<String> {
    let prepared = client.prepare(&sessions::in_its_words(statement)).unwrap_or_else(|error| {
        panic!("{statement}\n{error:?}");
    });
    let values = vec!["NULL"; prepared.params().len()].join(", ");
    let values = if values.is_empty() { values } else { format!("({values})") };
    let named = format!("PREPARE p AS {}", sessions::in_its_words(statement));
    client.batch_execute(&named).unwrap();
    let lines = client.query(&format!("EXPLAIN (COSTS OFF) EXECUTE p{values}"), &[]).unwrap();
    client.batch_execute("DEALLOCATE p").unwrap();
    lines.iter().map(|line| line.get(0)).collect()
}

#[test]
fn no_statement_reads_or_sorts_a_whole_table_before_anything_is_counted() {
    let database = shared().new_database();
    let address = Address::new(&shared().url(&database), None, None).unwrap();
    drop(PostgresStore::open(address.clone(), NOW).unwrap());
    let mut client = address.connect_to_serve().unwrap();
    client.batch_execute("SET plan_cache_mode = force_generic_plan").unwrap();
    let changes = [&sql::CLAIM, &sql::UNLEASE, &sql::END_ATTEMPT].map(|all| sessions::for_each(all).unwrap());
    let mut bad = Vec::new();
    for statement in sql::HOT.iter().copied().chain(changes.iter().map(String::as_str)) {
        let plan = plan(&mut client, statement);
        // There is one segment in a million taps.
        let few = statement == sql::SEGMENT_WITH;
        let reads_all =
            |line: &String| GROWING.iter().any(|table| line.contains(&format!("Seq Scan on {table}")));
        let sorts =
            |line: &String| line.contains("Sort") || line.contains("Hash") || line.contains("Merge Join");
        if plan.iter().any(|line| reads_all(line) || (sorts(line) && !few)) {
            bad.push(format!("{statement}\n{}", plan.join("\n")));
        }
    }
    assert!(bad.is_empty(), "{} of {}\n\n{}", bad.len(), sql::HOT.len(), bad.join("\n\n"));
}
