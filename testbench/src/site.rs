//! A whole Tapline on this machine: broker, cloud-ingest, legacy API and one controller, as real processes with a
//! fault proxy in front of the broker and another in front of the legacy API. It knows how they are wired and started;
//! what is done to them is the test's business.

pub(crate) mod agent;
mod lines;
mod replicas;
mod second_door;
mod store;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use cloud_ingest::event_store::place::Place;
use edge_agent::{
    anchors::ClockReport,
    control::{Request, Response, question},
    status::Status,
};
use serde::{Deserialize, de::DeserializeOwned};
use tap_protocol::ids::ControllerId;
use tempfile::TempDir;

use crate::{
    fault_proxy::FaultProxy,
    legacy_sim::LegacySim,
    rig::{
        FILES, FakeClock, Mosquitto, MosquittoOptions, Program, Ready, Running, free_port, program_path,
        wait_until,
    },
};

use lines::Lines;
pub use replicas::Replica;
pub use second_door::{SECOND, SecondDoor};
pub use store::{StoreKind, StoreServer};

/// The one controller's id.
pub const CONTROLLER: &str = "hq-door-1";

/// The one site's time zone.
pub const ZONE: &str = "Europe/Berlin";

/// How many badges the directory knows.
pub const BADGES: usize = 24;

/// How a site is to be built.
#[derive(Clone, Debug, Default)]
pub struct SiteOptions {
    /// The broker's limits.
    pub broker: MosquittoOptions,
    /// Extra TOML for edge-agent, such as `[[reader]]` tables.
    pub readers: String,
    /// Extra environment for edge-agent.
    pub edge_env: Vec<(String, String)>,
    /// edge-agent logs every signal and decision too.
    pub verbose: bool,
    /// Where everything lives; a temporary folder that goes away if not given.
    pub dir: Option<PathBuf>,
    /// Extra TOML for cloud-ingest's `[destination]`, such as `timeout_ms = 500`.
    pub destination: String,
    /// Leave the badges unbound.
    pub unbound: bool,
    /// edge-agent sees another clock, other boots and begins in 1970, with nobody vouching for its clock.
    pub fake_clock: bool,
    /// The broker runs as it is shipped: both sides reach it over TLS alone, by certificates that are good for two days.
    pub tls: bool,
    /// The same broker, with certificates and keys as cloud-ingest hands them out: the controller is enrolled.
    pub enrolled: bool,
    /// Where cloud-ingest stores.
    pub store: StoreKind,
    /// cloud-ingest knows a second controller, which [`SecondDoor`] starts.
    pub second_door: bool,
}

/// The running site.
#[derive(Debug)]
pub struct Site {
    /// The real broker.
    pub broker: Mosquitto,
    /// What the controller reaches the broker through.
    pub uplink: FaultProxy,
    /// What cloud-ingest reaches the legacy API through.
    pub legacy_line: FaultProxy,
    /// The legacy API.
    pub legacy: LegacySim,
    /// cloud-ingest, while it runs.
    pub cloud: Option<Running>,
    /// edge-agent, while it runs.
    pub edge: Option<Running>,
    /// edge-agent's clock, if it is another than the machine's.
    pub clock: Option<FakeClock>,
    /// The store's server, if it is on one.
    pub store: Option<StoreServer>,
    cloud_program: Program,
    edge_program: Program,
    http: SocketAddr,
    client: reqwest::Client,
    dir: PathBuf,
    _temporary: Option<TempDir>,
}

/// A green answer: what the person at the door was promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Green {
    /// Number in the outbox.
    pub seq: u64,
    /// Name for ever.
    pub event_id: String,
    /// From the card's number to the signal, microseconds, as the agent measured it.
    pub tap_to_signal_us: u64,
}

/// cloud-ingest's books.
#[derive(Clone, Debug, Deserialize)]
pub struct CloudLedger {
    /// Records stored.
    pub records: u64,
    /// Taps among them.
    pub taps: u64,
    /// Whether everything is where it belongs.
    pub balanced: bool,
    /// What is not.
    pub complaints: Vec<String>,
    /// Per state.
    pub by_state: Vec<DeliveryCount>,
}

/// One line of [`CloudLedger`].
#[derive(Clone, Debug, Deserialize)]
pub struct DeliveryCount {
    /// A name of the closed list.
    pub state: String,
    /// How many.
    pub count: u64,
}

impl CloudLedger {
    /// How many deliveries are in this state.
    pub fn in_state(&self, state: &str) -> u64 {
        self.by_state.iter().filter(|line| line.state == state).map(|line| line.count).sum()
    }
}

/// The UID of badge `n`, 7 bytes as NXP makes them.
pub fn badge_uid(n: usize) -> String {
    format!("04A1B2C3D4{n:04X}")
}

/// The person that badge `n` is bound to.
pub fn badge_person(n: usize) -> String {
    format!("E{n:04}")
}

impl Site {
    /// Builds configuration and keys, starts everything and binds the badges. When it returns, the whole chain works.
    ///
    /// # Errors
    ///
    /// When a part does not start; the end of its log is in the message.
    pub async fn start(options: SiteOptions) -> anyhow::Result<Self> {
        let (dir, temporary) = match options.dir.clone() {
            Some(dir) => (dir, None),
            None => {
                let temporary = TempDir::with_prefix("tapline-")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(&dir)?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let record_key = make_keys(&dir)?;
        let lines = match (options.tls, options.enrolled) {
            (_, true) => Lines::for_enrolled(&dir).await?,
            (true, false) => Lines::as_shipped(&dir).await?,
            (false, false) => Lines::in_clear(&dir, &options.broker).await?,
        };
        let uplink = FaultProxy::start(any, lines.for_controllers).await?;
        let legacy = LegacySim::start(any).await?;
        let legacy_line = FaultProxy::start(any, legacy.addr()).await?;
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let store = match options.store {
            StoreKind::Sqlite => None,
            StoreKind::Postgres => Some(StoreServer::start(None).await?),
            StoreKind::PostgresOnSmallDisk => Some(StoreServer::start(Some(store::SMALL_DISK_MB)).await?),
        };

        let ends = Ends { uplink: uplink.addr(), legacy_line: legacy_line.addr(), http };
        write_configs(&dir, &options, &lines, &ends, &store::section(store.as_ref()), &record_key)?;
        let cloud_program = Program::new("cloud-ingest")?
            .args(["serve", "--config"])
            .args([dir.join("cloud-ingest.toml")])
            .ready_when(Ready::Url(format!("http://{http}/health/live")));
        let edge_program = options
            .edge_env
            .iter()
            .fold(Program::new("edge-agent")?, |program, (key, value)| program.env(key, value))
            .args(["run", "--config"])
            .args([dir.join("edge-agent.toml")])
            .args(options.verbose.then_some("--verbose"))
            .ready_when(Ready::Line("is ready as".into()));
        let clock = match options.fake_clock {
            true => Some(FakeClock::start(&dir).await?),
            false => None,
        };
        if let Some(clock) = &clock {
            clock.shows(0, false)?;
        }
        let cloud = cloud_program.start(&dir).await?;
        if store.is_some() {
            // It has to find out first that nobody else takes in. A hello before its first subscription is heard by nobody,
            // and the next one comes a minute later.
            let ready = format!("http://{http}/health/ready");
            let client = crate::http_client();
            wait_until("cloud-ingest to take in", HEALS_WITHIN, &[cloud.log()], async || {
                let Ok(answer) = client.get(&ready).send().await else { return false };
                answer.status().is_success() && answer.text().await.is_ok_and(|text| text.contains("here"))
            })
            .await;
        }
        if options.enrolled {
            enroll(&dir)?;
        }
        let edge = at_its_time(&edge_program, clock.as_ref()).start(&dir).await?;
        let site = Site {
            broker: lines.broker,
            uplink,
            legacy_line,
            legacy,
            cloud: Some(cloud),
            edge: Some(edge),
            clock,
            store,
            cloud_program,
            edge_program,
            http,
            client: crate::http_client(),
            dir,
            _temporary: temporary,
        };
        if !options.unbound {
            site.bind_badges()?;
        }
        Ok(site)
    }

    /// Enrols the controller again, with another token, as a person at the door would. edge-agent does not run meanwhile.
    ///
    /// # Errors
    ///
    /// When either side refuses; its message is in the error.
    pub fn enroll_again(&self) -> anyhow::Result<()> {
        ensure!(self.edge.is_none(), "edge-agent was stopped before");
        enroll(&self.dir)
    }

    /// Tells the directory whose the badges are.
    ///
    /// # Errors
    ///
    /// When the import fails; its message is in the error.
    pub fn bind_badges(&self) -> anyhow::Result<()> {
        let csv = self.dir.join("badges.csv");
        let lines: String = (0..BADGES).map(|n| format!("{},{}\n", badge_uid(n), badge_person(n))).collect();
        std::fs::write(&csv, format!("badge,person\n{lines}"))?;
        self.cloud_cli(&["badges", "import", &csv.display().to_string()]).map(drop)
    }

    /// Runs a verb of cloud-ingest against this site's configuration and gives its standard output.
    ///
    /// # Errors
    ///
    /// When it exits with another code than 0; its standard error is in the message.
    pub fn cloud_cli(&self, verb: &[&str]) -> anyhow::Result<String> {
        let config = self.dir.join("cloud-ingest.toml").display().to_string();
        run("cloud-ingest", &[verb, &["--config", &config]].concat())
    }

    /// Revokes the controller and waits until the running service has noticed, which takes it a second.
    ///
    /// # Errors
    ///
    /// When the verb fails, or nothing is noticed.
    pub async fn revoke(&self) -> anyhow::Result<()> {
        self.cloud_cli(&["controllers", "revoke", CONTROLLER, "--reason", "broken open", "--yes"])?;
        let log = self.dir.join("cloud-ingest.log");
        wait_until("the service to notice", HEALS_WITHIN, &[&log], async || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("a controller is revoked"))
        })
        .await;
        Ok(())
    }

    /// Where everything lives.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `http://…` of cloud-ingest.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// The logs that explain a failure.
    pub fn logs(&self) -> Vec<PathBuf> {
        ["edge-agent.log", "cloud-ingest.log"].map(|name| self.dir.join(name)).to_vec()
    }

    /// One simulated tap of badge `n`, answered by the agent.
    ///
    /// # Errors
    ///
    /// When no agent answers, or the tap is refused.
    pub async fn tap(&self, n: usize) -> anyhow::Result<Green> {
        agent::tap(&self.control_socket(), n).await
    }

    /// What the agent says of itself.
    ///
    /// # Errors
    ///
    /// When no agent answers.
    pub async fn edge_status(&self) -> anyhow::Result<Status> {
        agent::status(&self.control_socket()).await
    }

    /// cloud-ingest's books.
    ///
    /// # Errors
    ///
    /// When cloud-ingest does not answer.
    pub async fn cloud_ledger(&self) -> anyhow::Result<CloudLedger> {
        self.get("/api/v1/ledger").await
    }

    /// Any JSON of cloud-ingest's API.
    ///
    /// # Errors
    ///
    /// When cloud-ingest does not answer 200 with that shape.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self.client.get(format!("{}{path}", self.url())).send().await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(answer.json().await?)
    }

    /// Any text of cloud-ingest, whatever the status.
    ///
    /// # Errors
    ///
    /// When cloud-ingest does not answer.
    pub async fn get_text(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let answer = self.client.get(format!("{}{path}", self.url())).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The agent's local socket.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("run/control.sock")
    }

    /// SIGKILL for edge-agent.
    ///
    /// # Errors
    ///
    /// When it cannot be killed.
    pub fn kill_edge(&mut self) -> anyhow::Result<()> {
        self.edge.take().context("edge-agent runs")?.kill9().context("killing edge-agent")
    }

    /// Starts edge-agent again.
    ///
    /// # Errors
    ///
    /// When it does not get ready.
    pub async fn start_edge(&mut self) -> anyhow::Result<()> {
        let program = at_its_time(&self.edge_program, self.clock.as_ref());
        self.edge = Some(program.start(&self.dir).await?);
        Ok(())
    }

    /// The power was gone: edge-agent starts in another boot, whose wall clock shows this.
    ///
    /// # Errors
    ///
    /// When edge-agent ran, does not get ready, or has no clock of its own.
    pub async fn reboot_edge(&mut self, wall_ms: i64, vouched: bool) -> anyhow::Result<()> {
        ensure!(self.edge.is_none(), "edge-agent was killed before");
        let clock = self.clock.as_mut().context("edge-agent has a clock of its own")?;
        clock.reboot().await?;
        clock.shows(wall_ms, vouched)?;
        self.start_edge().await
    }

    /// What the agent knows of the time.
    ///
    /// # Errors
    ///
    /// When no agent answers.
    pub async fn edge_clock(&self) -> anyhow::Result<ClockReport> {
        match question(&self.control_socket(), &Request::Clock).await? {
            Response::Clock(report) => Ok(*report),
            other => bail!("the agent answered something else: {other:?}"),
        }
    }

    /// SIGKILL for cloud-ingest.
    ///
    /// # Errors
    ///
    /// When it cannot be killed.
    pub fn kill_cloud(&mut self) -> anyhow::Result<()> {
        self.cloud.take().context("cloud-ingest runs")?.kill9().context("killing cloud-ingest")
    }

    /// Starts cloud-ingest again, with this environment besides.
    ///
    /// # Errors
    ///
    /// When it does not get ready.
    pub async fn start_cloud(&mut self, env: &[(&str, &str)]) -> anyhow::Result<()> {
        let program =
            env.iter().fold(self.cloud_program.clone(), |program, (key, value)| program.env(key, value));
        self.cloud = Some(program.start(&self.dir).await?);
        Ok(())
    }

    /// One more cloud-ingest on the same store, number `n`; not started yet.
    ///
    /// # Errors
    ///
    /// When its configuration cannot be written.
    pub fn replica(&self, n: usize) -> anyhow::Result<Replica> {
        ensure!(self.store.is_some(), "the store is on a server");
        Replica::new(&self.dir, n)
    }

    /// Where cloud-ingest stores, past the proxy.
    ///
    /// # Errors
    ///
    /// When the server's address makes no sense.
    pub fn place(&self) -> anyhow::Result<Place> {
        Ok(match &self.store {
            None => Place::File(self.store_path()),
            Some(server) => server.place()?,
        })
    }

    /// cloud-ingest's database, if it is a file.
    pub fn store_path(&self) -> PathBuf {
        self.dir.join("cloud/cloud-ingest.db")
    }

    /// The controller's outboxes.
    pub fn outbox_dir(&self) -> PathBuf {
        self.dir.join("state/outbox")
    }

    /// The outboxes' files, in the order of their names.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn outbox_files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.outbox_dir())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "outbox") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Runs a verb of edge-agent against this site's configuration.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn edge_cli(&self, verb: &[&str]) -> anyhow::Result<std::process::Output> {
        let config = self.dir.join("edge-agent.toml");
        let mut command = std::process::Command::new(program_path("edge-agent")?);
        Ok(command.args(verb).arg("--config").arg(config).output()?)
    }

    /// Whose outboxes those are.
    pub fn controller(&self) -> ControllerId {
        CONTROLLER.parse().expect("it is a slug")
    }
}

/// The program, with the clock that it is to see.
fn at_its_time(program: &Program, clock: Option<&FakeClock>) -> Program {
    let Some(clock) = clock else { return program.clone() };
    let program = program.clone().started_by(clock.starter());
    clock.env().into_iter().fold(program, |program, (key, value)| program.env(key, value))
}

/// Runs one of our own programs to its end.
///
/// # Errors
///
/// When it exits with another code than 0; its standard error is in the message.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = std::process::Command::new(program_path(program)?).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} ended with {}:\n{said}", args.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes the keys of both sides, unless they are there from an earlier run, and gives the controller's public key.
fn make_keys(dir: &Path) -> anyhow::Result<String> {
    let keys = dir.join("keys");
    let public = keys.join("record.pub");
    if let Ok(made_before) = std::fs::read_to_string(&public) {
        return Ok(made_before.trim().to_owned());
    }
    std::fs::create_dir_all(&keys)?;
    run("cloud-ingest", &["keys", "create", "--dir", &keys.display().to_string()])?;
    let record_key_file = keys.join("record.key").display().to_string();
    let record_key = run("edge-agent", &["keys", "create", "--record-key-file", &record_key_file])?;
    std::fs::write(public, &record_key)?;
    Ok(record_key.trim().to_owned())
}

/// Gets a token and enrols the controller with it, as a person at the door would.
fn enroll(dir: &Path) -> anyhow::Result<()> {
    let [cloud, edge] =
        ["cloud-ingest.toml", "edge-agent.toml"].map(|name| dir.join(name).display().to_string());
    let door = ["--controller", CONTROLLER, "--site", "hq", "--label", "Main entrance"];
    let create =
        [&["enroll-token", "create", "--config", &cloud, "--output", "json"], door.as_slice()].concat();
    let made: serde_json::Value = serde_json::from_str(&run("cloud-ingest", &create)?)?;
    let command =
        made.pointer("/0/command").and_then(|command| command.as_str()).context("the command to type")?;
    let typed: Vec<&str> = command.split_whitespace().skip_while(|word| *word != "enroll").collect();
    run("edge-agent", &[typed.as_slice(), &["--config", &edge]].concat()).map(drop)
}

/// Where a site's own parts are.
struct Ends {
    uplink: SocketAddr,
    legacy_line: SocketAddr,
    http: SocketAddr,
}

fn write_configs(
    dir: &Path,
    options: &SiteOptions,
    lines: &Lines,
    ends: &Ends,
    store: &str,
    record_key: &str,
) -> anyhow::Result<()> {
    let at = dir.display();
    let known = match options.enrolled {
        false => format!(
            r#"[[controller]]
id = "{CONTROLLER}"
label = "Main entrance"
site = "hq"
record_key = "{record_key}"
"#
        ),
        true => format!(
            r#"[enrolment]
listen = "{enrolment}"
url = "https://{enrolment}"
broker_url = "{scheme}://{uplink}"
crl_file = "{at}/{FILES}/crl.pem"
"#,
            enrolment = SocketAddr::from(([127, 0, 0, 1], free_port())),
            scheme = lines.scheme,
            uplink = ends.uplink,
        ),
    };
    let other = if options.second_door { second_door::declared(dir)? } else { String::new() };
    let http = ends.http;
    let cloud = format!(
        r#"data_dir = "{at}/cloud"

{store}
[broker]
url = "{scheme}://{broker}"
client_id = "cloud-ingest"
{files}

[http]
listen = "{http}"

[keys]
dir = "{at}/keys"

[[site]]
id = "hq"
label = "Headquarters"
zone = "{ZONE}"

{known}{other}
[destinations]
allow_networks = ["127.0.0.0/8"]

[destination]
name = "legacy"
url = "http://{legacy_line}/checkins"
{destination}
"#,
        scheme = lines.scheme,
        destination = options.destination,
        broker = lines.for_cloud,
        files = lines.clouds_files,
        legacy_line = ends.legacy_line,
    );
    std::fs::write(dir.join("cloud-ingest.toml"), cloud)?;
    let identity = match options.enrolled {
        true => String::new(),
        false => format!(
            r#"[broker]
url = "{scheme}://{uplink}"
{files}

[keys]
record_key_file = "{at}/keys/record.key"
token_key_file = "{at}/keys/token-1.key"
receipt_public_key_file = "{at}/keys/receipt-1.pub"
control_public_key_file = "{at}/keys/control-1.pub"
"#,
            scheme = lines.scheme,
            uplink = ends.uplink,
            files = lines.controllers_files,
        ),
    };
    let name = match options.enrolled {
        true => String::new(),
        false => format!("controller = \"{CONTROLLER}\""),
    };
    let edge = format!(
        r#"{name}
state_dir = "{at}/state"
runtime_dir = "{at}/run"

{identity}
{readers}
"#,
        readers = options.readers,
    );
    std::fs::write(dir.join("edge-agent.toml"), edge)?;
    Ok(())
}

/// Long enough for anything to heal on a busy machine: the longest single wait in the product is 30 s.
pub const HEALS_WITHIN: Duration = Duration::from_secs(150);
