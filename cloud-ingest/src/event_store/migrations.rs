//! Step 9 of 12: the schema's versions: what each one changes, and which programs may work beside it. Pure: it has the
//! scripts and what is known of them; the databases run them.
//!
//! A version's scripts are frozen once released. Each runs in one transaction, under the lock that all writers take in turn,
//! so a store is of one version or of the next, whatever is killed (ADR 0032).

mod script;

use serde::Serialize;

pub use self::script::{Lock, Step, statements};

/// The version that this program reads and writes: the last one there is.
pub const VERSION: usize = ALL.len();

/// All versions, in order.
pub const ALL: [Migration; 2] = [
    Migration {
        name: "the first tables",
        sqlite: include_str!("sqlite/schema/1.sql"),
        postgres: include_str!("postgres/schema/1.sql"),
        postgres_before: None,
        oldest_program: 1,
    },
    Migration {
        name: "records read anew, and what came with them",
        sqlite: include_str!("sqlite/schema/2.sql"),
        postgres: include_str!("postgres/schema/2.sql"),
        postgres_before: Some(include_str!("postgres/schema/2-before.sql")),
        oldest_program: 2,
    },
];

/// One version of the schema.
#[derive(Debug)]
pub struct Migration {
    /// What it brings, for people.
    pub name: &'static str,
    /// What SQLite runs.
    pub sqlite: &'static str,
    /// What PostgreSQL runs.
    pub postgres: &'static str,
    /// What PostgreSQL runs before that, while services go on: parts with a line [`NEXT_PART`] between them. Each part is a
    /// transaction of its own and may be run again.
    pub postgres_before: Option<&'static str>,
    /// Programs that know this version or a later one may go on writing when it is there.
    pub oldest_program: usize,
}

/// Between two parts of [`Migration::postgres_before`].
pub const NEXT_PART: &str = "-- Then:";

impl Migration {
    /// The parts of [`Migration::postgres_before`].
    pub fn parts_before(&self) -> impl Iterator<Item = &'static str> {
        self.postgres_before.into_iter().flat_map(|script| script.split(NEXT_PART))
    }
}

/// What would be done to bring a store up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The version that is there.
    pub from: usize,
    /// The version that this program needs.
    pub to: usize,
    /// What lies between, in order.
    pub versions: Vec<Planned>,
    /// Programs that are connected and could not go on: they must be stopped first.
    pub too_old: Vec<Connected>,
    /// Whether this role may change tables.
    pub may: bool,
}

/// One version of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Its number.
    pub version: usize,
    /// What it brings.
    pub name: &'static str,
    /// Programs of this version and later may go on.
    pub oldest_program: usize,
    /// What is done, statement by statement.
    pub steps: Vec<Step>,
    /// About so long, seconds: by the rows there are.
    pub about_s: u64,
}

/// Somebody who is connected to the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Connected {
    /// The server's process for it.
    pub pid: i32,
    /// What it calls itself.
    pub program: String,
    /// Under which role.
    pub role: String,
    /// What it does, for people.
    pub does: String,
}

/// Rows that a server reads, or puts into an index, in a second: what a small one does.
const ROWS_PER_S: u64 = 200_000;

impl Plan {
    /// For a store of version `from`, whose tables have so many `rows`.
    pub fn new(
        from: usize,
        of: impl Fn(&Migration) -> Vec<&'static str>,
        rows: &dyn Fn(&str) -> u64,
    ) -> Plan {
        let versions = ALL.iter().enumerate().skip(from).map(|(before, migration)| {
            let statements = of(migration).into_iter().flat_map(script::statements);
            let steps: Vec<Step> = statements.map(|statement| Step::of(statement, rows)).collect();
            let about_s = steps.iter().filter_map(|step| step.rows).sum::<u64>().div_ceil(ROWS_PER_S);
            Planned {
                version: before + 1,
                name: migration.name,
                oldest_program: migration.oldest_program,
                steps,
                about_s,
            }
        });
        Plan { from, to: VERSION, versions: versions.collect(), too_old: Vec::new(), may: true }
    }
}

/// What is told while a store is brought up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Another process does it: we wait.
    AnotherDoes,
    /// This part of so many of a version begins.
    Begins {
        /// Which version.
        version: usize,
        /// 1, 2, 3 …
        part: usize,
        /// How many.
        of: usize,
    },
    /// Somebody held a lock for longer than anybody should wait: it is tried again after a pause.
    InTheWay {
        /// Who, as far as the server tells.
        by: Vec<Connected>,
        /// Milliseconds.
        again_in_ms: u64,
    },
    /// The store is of this version now.
    Reached(usize),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// The version that was there; 0 if there was no store.
    pub from: usize,
    /// The version that is there.
    pub to: usize,
}

/// The store is not of a version that this program can write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongVersion {
    /// It has to be brought up to date.
    #[error(
        "the store has schema version {is} and this program needs {VERSION}: stop older services and run \
         `cloud-ingest store migrate` (`--dry-run` says what that does)"
    )]
    Behind {
        /// The version that is there.
        is: usize,
    },
    /// A later program has changed it, and this one cannot go on.
    #[error(
        "the store has schema version {is}, which programs that know only version {VERSION} cannot work with: it was \
         brought up to date by a newer cloud-ingest; run that one, or restore a backup"
    )]
    Ahead {
        /// The version that is there; as far as is known.
        is: usize,
    },
    /// A role that may not change tables was asked to.
    #[error(
        "the store has schema version {is}, this program needs {VERSION}, and this role may not change tables: run \
         `cloud-ingest store migrate` with the owner's [store] url"
    )]
    MayNot {
        /// The version that is there.
        is: usize,
    },
    /// Older programs run that would not notice.
    #[error("programs that know only older versions are connected: stop them first ({})", list(.0))]
    TooOldConnected(Vec<Connected>),
    /// A lock could not be had within the time.
    #[error("somebody keeps a table from being changed ({}): let it end, or end it, and try again", list(.0))]
    InTheWay(Vec<Connected>),
}

/// For people: `pg_dump as backup (process 4711): active for 90 s: COPY …`.
pub fn list(connected: &[Connected]) -> String {
    let named = connected.iter().map(|one| {
        let Connected { pid, program, role, does } = one;
        let program = if program.is_empty() { "somebody" } else { program };
        format!("{program} as {role}, process {pid}: {does}")
    });
    let named: Vec<String> = named.collect();
    if named.is_empty() { "the server does not say who".to_owned() } else { named.join("; ") }
}

/// What happens, for people.
pub fn sentence(told: &Told) -> String {
    match told {
        Told::AnotherDoes => "another process brings the store up to date; waiting for it".into(),
        Told::Begins { version, part: 1, of: 1 } => format!("version {version}: begun"),
        Told::Begins { version, part, of } => format!("version {version}: part {part} of {of} begun"),
        Told::InTheWay { by, again_in_ms } => {
            format!("given up for now, in the way was {}; again in {again_in_ms} ms", list(by))
        }
        Told::Reached(version) => format!("version {version}: done"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_read_before_a_migration_names_every_table_and_how_long_it_takes() {
        let rows = |table: &str| if table == "events" { 1_000_000 } else { 0 };
        let plan = Plan::new(1, |migration| vec![migration.postgres], &rows);
        assert_eq!((plan.from, plan.to, plan.versions.len()), (1, VERSION, VERSION - 1));
        assert!(plan.versions.iter().all(|version| !version.steps.is_empty()));
        assert_eq!(Plan::new(VERSION, |_| vec![], &rows).versions, []);
    }

    #[test]
    fn no_version_lets_programs_go_on_that_the_one_before_has_ended() {
        for (one, next) in ALL.iter().zip(&ALL[1..]) {
            assert!(one.oldest_program <= next.oldest_program);
        }
        for (at, migration) in ALL.iter().enumerate() {
            assert!((1..=at + 1).contains(&migration.oldest_program), "{}", migration.name);
        }
    }

    #[test]
    fn whoever_is_in_the_way_is_named() {
        let one =
            Connected { pid: 7, program: "pg_dump".into(), role: "backup".into(), does: "active".into() };
        assert_eq!(list(&[one]), "pg_dump as backup, process 7: active");
        assert_eq!(list(&[]), "the server does not say who");
    }
}
