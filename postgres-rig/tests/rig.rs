//! The rig against the real server; what the product makes of it is tested elsewhere.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use postgres_rig::{Cluster, Options, shared};

#[test]
fn a_database_each_is_what_tests_that_share_a_cluster_see() {
    let (first, second) = (shared().new_database(), shared().new_database());
    shared()
        .query(&first, "CREATE TABLE only_here (n BIGINT); INSERT INTO only_here VALUES (1), (2)")
        .unwrap();
    assert_eq!(shared().query(&first, "SELECT sum(n), count(*) FROM only_here").unwrap(), "3|2");
    let error = shared().query(&second, "SELECT * FROM only_here").unwrap_err().to_string();
    assert!(error.contains("does not exist"), "{error}");

    let copy = shared().new_database_from(&first);
    assert_eq!(shared().query(&copy, "SELECT count(*) FROM only_here").unwrap(), "2");
}

#[test]
fn a_private_cluster_syncs_and_has_a_customers_order_of_text() {
    let cluster = Cluster::start().unwrap();
    assert_eq!(cluster.query("postgres", "SHOW fsync").unwrap(), "on");
    assert_eq!(cluster.query("postgres", "SHOW synchronous_commit").unwrap(), "on");
    // By their bytes, B is before a.
    assert_eq!(cluster.query("postgres", "SELECT 'a' < 'B'").unwrap(), "t");
}

#[test]
fn what_was_committed_is_there_after_a_kill_and_a_restart_at_the_same_address() {
    let mut cluster = Cluster::start().unwrap();
    let (database, first) = (cluster.new_database(), cluster.pid());
    let url = cluster.url(&database);
    cluster.query(&database, "CREATE TABLE t (n BIGINT); INSERT INTO t VALUES (7)").unwrap();
    cluster.kill().unwrap();
    cluster.query(&database, "SELECT 1").unwrap_err();
    cluster.kill().unwrap_err();

    cluster.restart().unwrap();
    assert_ne!(cluster.pid(), first);
    assert_eq!(cluster.url(&database), url);
    assert_eq!(cluster.query(&database, "SELECT n FROM t").unwrap(), "7");
    assert!(fs::read_to_string(cluster.log()).unwrap().contains("was not properly shut down"));

    cluster.restart().unwrap();
    assert_eq!(cluster.query(&database, "SELECT n FROM t").unwrap(), "7");
}

#[test]
fn a_frozen_cluster_answers_nobody_until_it_is_thawed() {
    let cluster = Cluster::start().unwrap();
    cluster.freeze().unwrap();
    let (tell, told) = sync_channel(1);
    thread::scope(|scope| {
        scope.spawn(|| tell.send(cluster.query("postgres", "SELECT 1").unwrap()));
        told.recv_timeout(Duration::from_millis(100)).unwrap_err();
        cluster.thaw().unwrap();
        assert_eq!(told.recv().unwrap(), "1");
    });
}

#[test]
fn a_port_is_for_those_who_want_one() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error =
        Cluster::start_with(Options { port: Some(port), ..Options::default() }).unwrap_err().to_string();
    assert!(error.contains("before it was ready") && error.contains("could not bind"), "{error}");

    drop(listener);
    let cluster = Cluster::start_with(Options { port: Some(port), ..Options::default() }).unwrap();
    assert!(cluster.url("postgres").contains(&format!("@127.0.0.1:{port}/")));
    assert_eq!(cluster.query("postgres", "SELECT 1").unwrap(), "1");
}

/// The processes that work in this folder, or in one inside it.
fn at_work_in(folder: &Path) -> usize {
    let links =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path().join("cwd")).ok());
    links.filter(|cwd| cwd.starts_with(folder)).count()
}

fn segments() -> String {
    String::from_utf8(Command::new("ipcs").arg("--shmems").output().unwrap().stdout).unwrap()
}

/// The id of the shared memory that the server holds.
fn segment(cluster: &Cluster) -> String {
    let state = fs::read_to_string(cluster.data().join("postmaster.pid")).unwrap();
    state.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

fn is_there(segment: &str) -> bool {
    segments().lines().any(|line| line.split_whitespace().nth(1) == Some(segment))
}

#[test]
fn nothing_is_left_of_a_cluster_that_was_dropped_running_frozen_or_killed() {
    for what in ["running", "frozen", "killed"] {
        let mut cluster = Cluster::start().unwrap();
        let (folder, segment) = (cluster.data().parent().unwrap().to_owned(), segment(&cluster));
        assert!(at_work_in(&folder) > 1 && is_there(&segment), "the search finds what is there");
        match what {
            "frozen" => cluster.freeze().unwrap(),
            "killed" => cluster.kill().unwrap(),
            _ => {}
        }
        drop(cluster);
        assert!(!folder.exists() && at_work_in(&folder) == 0 && !is_there(&segment), "{what}");
    }
}

#[test]
fn nothing_is_left_of_a_cluster_whose_process_was_killed() {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_postgres-rig"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    let mut said = BufReader::new(owner.stdout.take().unwrap());
    said.read_line(&mut url).unwrap();
    let socket = url.split(['@', '/']).find(|part| part.starts_with("%2F")).unwrap();
    let folder = PathBuf::from(socket.replace("%2F", "/"));
    assert!(at_work_in(&folder) > 1, "the search finds what is there");

    owner.kill().unwrap();
    owner.wait().unwrap();
    for _ in 0..1_000 {
        if !folder.exists() && at_work_in(&folder) == 0 {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} is still there", folder.display());
}
