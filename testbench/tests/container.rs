//! The cloud side in containers, without containers: nothing here can start one, so what the images run is run as plain
//! processes, with the files that compose.yaml mounts, below a folder instead of `/`. What the recipe copies and what the
//! compose file mounts is held against what is there.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use postgres_rig::{Cluster, Options, SUPERUSER};
use rustix::process::{Pid, Signal, kill_process};
use testbench::{
    legacy_sim::LegacySim,
    rig::{Program, Ready, Running, free_port, program_path, wait_until},
    site::{CONTROLLER, HEALS_WITHIN, badge_uid},
};

const SCRIPTS: &str = "packaging/container";

/// Where Debian keeps programs and servers.
const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

// --- The files -------------------------------------------------------------------------------------------------------

#[test]
fn what_the_recipe_copies_is_there_and_is_let_in() {
    let recipe = text("packaging/container/Containerfile");
    let stages: Vec<_> =
        recipe.lines().filter_map(|line| line.split_once(" AS ")).map(|(_, name)| name).collect();
    assert_eq!(
        stages,
        ["build", "build-cloud-ingest", "build-legacy-sim", "broker", "legacy-sim", "cloud-ingest"]
    );

    let ignore = text(".dockerignore");
    let let_in: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let manifest = text("Cargo.toml");
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    for member in members.split(", ").map(|member| member.trim().trim_matches('"')) {
        assert!(
            let_in.contains(&member),
            "cargo wants the manifest of {member}, which .dockerignore keeps out"
        );
    }

    let mut copied = 0;
    for line in recipe.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let (to, from) = words.split_last().unwrap();
        match from[0].strip_prefix("--from=") {
            Some(stage) => {
                assert!(stages.contains(&stage), "{line}");
                let program = Path::new(from[1]).file_name().unwrap().to_str().unwrap();
                assert!(recipe.contains(&format!("--bin {program}\n")), "{line}");
            }
            None if from == ["."] => {}
            None => {
                for file in from {
                    copied += 1;
                    let mode = fs::metadata(root().join(file)).unwrap().permissions().mode();
                    assert!(!to.starts_with("/usr/lib/tapline") || mode & 0o111 != 0, "{file} is no program");
                    assert!(let_in.iter().any(|folder| file.starts_with(folder)), "{file} is kept out");
                }
            }
        }
    }
    assert!(copied >= 8, "{copied}");
    for line in recipe.lines().filter(|line| line.starts_with("ENTRYPOINT")) {
        let program = line.split('"').nth(1).unwrap();
        let name = Path::new(program).file_name().unwrap().to_str().unwrap();
        assert!(
            recipe.lines().any(|copy| copy.starts_with("COPY") && copy.contains(&format!("/{name}"))),
            "{line}"
        );
    }
}

/// What the final stage has beside Debian's slim image: a program that wants a library more does not start there.
#[test]
fn the_program_wants_no_library_that_its_image_lacks() {
    let wanted = Command::new("ldd").arg(program_path("cloud-ingest").unwrap()).output().unwrap();
    let wanted = String::from_utf8(wanted.stdout).unwrap();
    for line in wanted.lines() {
        let name = line.split_whitespace().next().unwrap().rsplit('/').next().unwrap();
        let known =
            ["linux-vdso.so.1", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "libdl.so.2", "libpthread.so.0"];
        assert!(known.contains(&name) || name.starts_with("ld-linux"), "{line}");
    }
}

/// A service of compose.yaml: its lines.
fn services() -> BTreeMap<String, Vec<String>> {
    let compose = text("packaging/compose/compose.yaml");
    let mut all = BTreeMap::<String, Vec<String>>::new();
    let mut name = None;
    let lines = compose.lines().skip_while(|line| *line != "services:").skip(1);
    for line in lines.take_while(|line| line.is_empty() || line.starts_with(' ')) {
        match line
            .strip_prefix("  ")
            .and_then(|rest| rest.strip_suffix(':'))
            .filter(|rest| !rest.starts_with(' '))
        {
            Some(new) => name = Some(new.to_owned()),
            None => {
                if let Some(name) = &name {
                    all.entry(name.clone()).or_default().push(line.trim().to_owned());
                }
            }
        }
    }
    all
}

/// What a service mounts: what, and where.
fn mounts(lines: &[String]) -> Vec<(String, String)> {
    let mounts = lines.iter().skip_while(|line| *line != "volumes:").skip(1);
    let mounts = mounts.map_while(|line| line.strip_prefix("- "));
    mounts
        .map(|mount| mount.split_once(':').unwrap())
        .map(|(what, to)| (what.to_owned(), to.trim_end_matches(":ro").to_owned()))
        .collect()
}

#[test]
fn what_the_compose_file_mounts_is_there_and_all_that_a_configuration_names_is_mounted() {
    let services = services();
    let compose = text("packaging/compose/compose.yaml");
    let declared: Vec<_> = compose
        .split_once("\nvolumes:\n")
        .unwrap()
        .1
        .lines()
        .map(|line| line.trim().trim_end_matches(": {}"))
        .collect();
    for (name, lines) in &services {
        for (what, _) in mounts(lines) {
            match what.starts_with('.') {
                true => assert!(root().join("packaging/compose").join(&what).exists(), "{name}: {what}"),
                false => assert!(declared.contains(&what.as_str()), "{name}: {what} is no volume"),
            }
        }
        let ours = lines.iter().any(|line| line.starts_with("image: tapline/"));
        assert!(!ours || lines.contains(&"<<: *hardened".to_owned()), "{name} may write to its root");
    }
    for (service, config) in [("cloud-ingest", "cloud-ingest.toml"), ("migrate", "owner.toml")] {
        let mounted = mounts(&services[service]);
        let config = text(&format!("packaging/compose/{config}"));
        for line in config.lines().filter(|line| !line.starts_with('#')) {
            if let Some(path) = line.split('"').nth(1).filter(|value| value.starts_with('/')) {
                assert!(
                    mounted.iter().any(|(_, to)| path.starts_with(to)),
                    "{service} mounts nothing for {path}"
                );
            }
        }
    }
    // Whoever is called by name is there, and reachable on that port.
    let config = text("packaging/compose/cloud-ingest.toml");
    assert!(config.contains("@database/") && services.contains_key("database"));
    assert!(config.contains("//broker:8884") && services.contains_key("broker"));
    assert!(services["broker"].iter().any(|line| line.contains("8883:8883")) && config.contains(":8883\""));
    assert!(
        services["cloud-ingest"].iter().any(|line| line.contains("8444:8444")) && config.contains(":8444\"")
    );
    let simulator = "network_mode: service:cloud-ingest".to_owned();
    assert!(services["legacy-sim"].contains(&simulator), "it listens on loopback alone");
}

// --- The files at work -----------------------------------------------------------------------------------------------

/// What would be the root of every container.
struct Containers {
    folder: tempfile::TempDir,
    database: Cluster,
    enrolment: SocketAddr,
    http: SocketAddr,
}

/// The script, with our programs in its path.
fn script(path: &str, args: &[&Path]) -> Command {
    let ours = program_path("cloud-ingest").unwrap();
    let path_with_ours = format!("{}:{SYSTEM}", ours.parent().unwrap().display());
    let mut command = Command::new(root().join(path));
    command.args(args).env("PATH", path_with_ours);
    command
}

#[track_caller]
fn fine(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    said.into_owned()
}

impl Containers {
    /// Mounts what compose.yaml mounts, with other ports and folders, and nothing else changed.
    fn new(legacy: SocketAddr) -> Containers {
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let database =
            Cluster::start_with(Options { port: Some(free_port()), fsync: false, ..Options::default() })
                .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [http, enrolment, controllers, service, clear] = std::array::from_fn(|_| here(free_port()));
        let at = folder.path().display();
        for file in ["cloud-ingest.toml", "owner.toml"] {
            let owner_or_service = if file == "owner.toml" { "tapline_owner" } else { "tapline_service" };
            let config = text(&format!("packaging/compose/{file}"))
                .replace(
                    &format!("postgres://{owner_or_service}@database/tapline"),
                    &database.url_as(owner_or_service, "tapline"),
                )
                .replace("\"/etc/", &format!("\"{at}/etc/"))
                .replace("\"/var/", &format!("\"{at}/var/"))
                .replace("broker:8884", &service.to_string())
                .replace("0.0.0.0:8080", &http.to_string())
                .replace("0.0.0.0:8444", &enrolment.to_string())
                .replace("tapline.example.com:8444", &enrolment.to_string())
                .replace("tapline.example.com:8883", &controllers.to_string())
                .replace("127.0.0.1:9000", &legacy.to_string());
            let etc = folder.path().join("etc/cloud-ingest");
            fs::create_dir_all(&etc).unwrap();
            fs::write(etc.join(file), config).unwrap();
        }
        let etc = folder.path().join("etc/mosquitto");
        fs::create_dir_all(etc.join("conf.d")).unwrap();
        for (from, to) in [
            ("container/mosquitto.conf", "mosquitto.conf"),
            ("mosquitto/tapline.conf", "conf.d/tapline.conf"),
            ("mosquitto/tapline.service-tls.conf", "conf.d/tapline.service-tls.conf"),
            ("mosquitto/tapline.acl", "tapline.acl"),
            ("mosquitto/tapline-service.acl", "tapline-service.acl"),
        ] {
            let listens = |addr: SocketAddr| format!("listener {} {}", addr.port(), addr.ip());
            let file = text(&format!("packaging/{from}"))
                .replace("listener 8883", &listens(controllers))
                .replace("listener 8884", &listens(service))
                .replace("listener 1884 127.0.0.1", &listens(clear))
                .replace(" /etc/", &format!(" {at}/etc/"));
            // Started by root, it would become somebody who cannot read this folder; in its container it is nobody else.
            let user = if to == "mosquitto.conf" { "user root\n" } else { "" };
            fs::write(etc.join(to), user.to_owned() + &file).unwrap();
        }
        Containers { folder, database, enrolment, http }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `setup`, then what the database's image does when it is empty, `migrate` and `roles`.
    fn prepare(&self) {
        fine(script(&format!("{SCRIPTS}/setup"), &[self.path()]).output().unwrap());
        let url = self.database.url("postgres");
        let port = url.rsplit(':').next().unwrap().split('/').next().unwrap();
        let mut database = script("packaging/compose/database.sh", &[]);
        database.env("PGHOST", "127.0.0.1").env("PGPORT", port).env("POSTGRES_USER", SUPERUSER);
        fine(database.env("PASSWORDS", self.path().join("run/tapline/database")).output().unwrap());
        self.migrate();
    }

    fn migrate(&self) {
        fine(script(&format!("{SCRIPTS}/migrate"), &[self.path()]).output().unwrap());
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname"]);
        psql.arg(self.database.url_as("tapline_owner", "tapline"));
        fine(psql.arg("--file").arg(self.path().join("run/tapline/roles/roles.sql")).output().unwrap());
    }

    /// The broker as process 1 of its own, as in a container: what it started ends with it.
    async fn broker(&self) -> Running {
        Program::at(root().join(SCRIPTS).join("broker"), "broker")
            .args([self.path()])
            .env("PATH", SYSTEM)
            .started_by(["unshare", "--pid", "--fork", "--kill-child", "--"].map(Into::into).to_vec())
            .ready_when(Ready::Line("Opening ipv4 listen socket on port".into()))
            .start(self.path())
            .await
            .unwrap()
    }

    fn config(&self) -> String {
        self.path().join("etc/cloud-ingest/cloud-ingest.toml").display().to_string()
    }

    fn cloud(&self, verb: &[&str]) -> Output {
        let mut command = Command::new(program_path("cloud-ingest").unwrap());
        command.args(verb).args(["--config", &self.config()]).output().unwrap()
    }

    async fn service(&self) -> Running {
        Program::new("cloud-ingest")
            .unwrap()
            .args(["serve", "--config", &self.config()])
            .ready_when(Ready::Url(format!("http://{}/health/live", self.http)))
            .start(self.path())
            .await
            .unwrap()
    }

    async fn is_healthy(&self) {
        wait_until(
            "`cloud-ingest health` to say so",
            HEALS_WITHIN,
            &[&self.path().join("cloud-ingest.log")],
            async || self.cloud(&["health"]).status.success(),
        )
        .await;
    }

    /// A door beside them, enrolled as a person would.
    fn enroll(&self) -> PathBuf {
        let config = self.path().join("edge-agent.toml");
        let at = self.path().display();
        fs::write(&config, format!("state_dir = \"{at}/state\"\nruntime_dir = \"{at}/run/edge\"\n")).unwrap();
        let door =
            ["--controller", CONTROLLER, "--site", "hq", "--label", "Main entrance", "--output", "json"];
        let made = fine(self.cloud(&[["enroll-token", "create"].as_slice(), door.as_slice()].concat()));
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let typed = made[0]["command"].as_str().unwrap();
        assert!(typed.contains(&format!("https://{}", self.enrolment)), "{typed}");
        let words = typed.split_whitespace().skip_while(|word| *word != "enroll");
        let mut enroll = Command::new(program_path("edge-agent").unwrap());
        fine(enroll.args(words).arg("--config").arg(&config).output().unwrap());
        config
    }
}

/// What a process of its own process namespace is called outside of it.
fn first_child(of: Pid) -> Pid {
    let pid = of.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap()).unwrap()
}

/// As an engine stops a container: SIGTERM to process 1, and no more patience than engines have.
async fn stop(broker: &mut Running) {
    kill_process(first_child(broker.pid()), Signal::TERM).unwrap();
    assert_eq!(broker.wait(Duration::from_secs(10)).await.unwrap().code(), Some(0));
}

fn edge(verb: &[&str], config: &Path, env: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(program_path("edge-agent").unwrap());
    command.args(verb).arg("--config").arg(config).envs(env.iter().copied()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_programs_and_files_make_an_installation() {
    let legacy = LegacySim::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let all = Containers::new(legacy.addr());
    all.prepare();
    let health = all.cloud(&["health"]);
    assert_eq!(health.status.code(), Some(69), "nothing runs yet: {health:?}");
    let mut broker = all.broker().await;
    let mut service = all.service().await;
    all.is_healthy().await;

    // A tap goes all the way.
    let config = all.enroll();
    let door = Program::new("edge-agent").unwrap().args(["run", "--config"]).args([&config]);
    let door = door.ready_when(Ready::Line("is ready as".into()));
    let mut agent = door.start(all.path()).await.unwrap();
    let badges = all.path().join("badges.csv");
    fs::write(&badges, format!("badge,person\n{},E-1007\n", badge_uid(1))).unwrap();
    fine(all.cloud(&["badges", "import", &badges.display().to_string()]));
    let tap = ["tap", "--simulate", &badge_uid(1)];
    fine(edge(&tap, &config, &[]));
    wait_until("the tap to be told", HEALS_WITHIN, &[service.log(), agent.log()], async || {
        legacy.report().processed.len() == 1
    })
    .await;

    // All of this again changes nothing: it is what every start does.
    let keys = || fs::read(all.path().join("etc/cloud-ingest/keys/root-1.crt")).unwrap();
    let server = || fs::read(all.path().join("etc/mosquitto/tapline/server.pem")).unwrap();
    let before = (keys(), server());
    fine(script(&format!("{SCRIPTS}/setup"), &[all.path()]).output().unwrap());
    all.migrate();
    assert_eq!((keys(), server()), before);

    // The service's role cannot change what was tapped.
    let as_service = Command::new("psql")
        .arg(all.database.url_as("tapline_service", "tapline"))
        .args(["--no-psqlrc", "--command", "DELETE FROM events"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&as_service.stderr).contains("permission denied"), "{as_service:?}");

    // A controller breaks with a tap that nobody has yet. As docs/install.md tells it: its card goes into another machine,
    // which writes what is on it into a file, and the cloud takes that in.
    stop(&mut broker).await;
    fine(edge(&tap, &config, &[]));
    agent.kill9().unwrap();
    let mut broker = all.broker().await;
    let card = all.path().join("media/card/var/lib/edge-agent");
    fs::create_dir_all(card.parent().unwrap()).unwrap();
    fs::rename(all.path().join("state"), &card).unwrap();
    let export = all.path().join("hq-door-1.export");
    let to = export.display().to_string();
    fine(edge(&["outbox", "export", "--to", &to], &config, &[("EDGE_AGENT_STATE_DIR", &card)]));
    fine(all.cloud(&["import", &to]));
    wait_until("the rescued tap to be told", HEALS_WITHIN, &[service.log()], async || {
        legacy.report().processed.len() == 2
    })
    .await;

    // A revoked door is on the list that the broker reads, within seconds and without a restart.
    let reloads = fs::read_to_string(broker.log()).unwrap().matches("Reloading config").count();
    fine(all.cloud(&["controllers", "revoke", CONTROLLER, "--reason", "broken open", "--yes"]));
    wait_until("the broker to read its list", HEALS_WITHIN, &[broker.log()], async || {
        fs::read_to_string(broker.log()).unwrap().matches("Reloading config").count() > reloads
    })
    .await;
    let crl = |path: &str| fs::read(all.path().join(path)).unwrap();
    assert_eq!(crl("var/lib/cloud-ingest/ca/crl.pem"), crl("etc/mosquitto/tapline/crl.pem"));

    // A list that cannot be read gets no further.
    let good = crl("etc/mosquitto/tapline/crl.pem");
    fs::write(all.path().join("var/lib/cloud-ingest/ca/crl.pem"), "-----BEGIN X509 CRL-----\n").unwrap();
    wait_until("the broker to complain", HEALS_WITHIN, &[broker.log()], async || {
        fs::read_to_string(broker.log()).unwrap().contains("the list before it stays")
    })
    .await;
    assert_eq!(crl("etc/mosquitto/tapline/crl.pem"), good);

    stop(&mut broker).await;
    wait_until("health to notice", HEALS_WITHIN, &[], async || {
        let said = all.cloud(&["health"]);
        said.status.code() == Some(1)
            && String::from_utf8_lossy(&said.stdout).contains("the broker is not connected")
    })
    .await;
    fine(all.cloud(&["health", "--live"]));
    assert!(service.terminate(Duration::from_secs(30)).await.unwrap().success());
}
