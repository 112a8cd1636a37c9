//! The librarian against a store in memory and a broker's connection that remembers what went out. Time is tokio's, and
//! passes when everybody waits.

use std::sync::Mutex;

use tap_protocol::badge::{Credential, Technology};
use tap_protocol::ids::ControllerId;
use tap_protocol::roster::{RosterHead, RosterMessage};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::directory::badges::seals;
use crate::event_store::handle::StoreThread;
use crate::event_store::sqlite::SqliteStore;
use crate::event_store::{Binding, PersonId, Which};
use crate::fixture::START;
use crate::intake::Ticket;
use crate::keyring::ring::Kind;
use crate::keyring::{self, Keys, live};
use crate::stop::{self, Stopper};

#[derive(Clone, Default)]
struct Remembering(Arc<Mutex<Vec<Vec<u8>>>>);

impl BrokerLink for Remembering {
    fn acknowledge(&self, _: Ticket) {}

    fn publish(&self, topic: String, payload: Vec<u8>) -> bool {
        assert_eq!(topic, "tap/v1/door-1/roster");
        self.0.lock().unwrap().push(payload);
        true
    }
}

/// More than anything here takes.
const MANY_TURNS: usize = 10_000;

struct World {
    store: StoreHandle,
    keys: LiveKeys,
    looking: live::Looking,
    folder: tempfile::TempDir,
    said: mpsc::Sender<Said>,
    link: Remembering,
    _stopper: Stopper,
    _thread: StoreThread,
    _running: JoinHandle<()>,
}

fn badge(n: u8) -> Credential {
    Credential::from_bytes(Technology::Hf, &[4, n, 0, 1]).unwrap()
}

fn door() -> ControllerId {
    "door-1".parse().unwrap()
}

fn world() -> World {
    let folder = keyring::tests::folder();
    let (keys, looking) = live::open(folder.path().to_owned(), Keys::load(folder.path()).unwrap());
    let (store, thread) = StoreHandle::spawn("store", Box::new(SqliteStore::in_memory(START))).unwrap();
    let (said_in, said) = mpsc::channel(16);
    let (stopper, stop) = stop::pair();
    let link = Remembering::default();
    let began = Instant::now();
    let librarian = Librarian {
        writer: store.clone(),
        reader: store.clone(),
        link: link.clone(),
        keys: keys.clone(),
        clock: Clock::from_fn(move || UtcMs(START.0 + began.elapsed().as_millis() as i64)),
        metrics: Arc::new(Metrics::new()),
    };
    let running = tokio::spawn(run(librarian, said, stop));
    World {
        store,
        keys,
        looking,
        folder,
        said: said_in,
        link,
        _stopper: stopper,
        _thread: thread,
        _running: running,
    }
}

impl World {
    async fn bind(&self, numbers: std::ops::Range<u8>) {
        let keys = self.keys.now();
        let bind = |n| Binding::new(seals(&badge(n), keys.token_keys()), PersonId(format!("E-{n}")));
        let bindings: Vec<Binding> = numbers.map(bind).collect();
        self.store.run(move |store| store.bind_badges(&bindings, START)).await.unwrap();
    }

    async fn hello(&self, version: Option<u64>) {
        self.said.send(Said::Has { controller: door(), version }).await.unwrap();
    }

    /// What goes out next; there must be something.
    async fn sent(&self) -> Vec<RosterMessage> {
        for _ in 0..MANY_TURNS {
            self.turn().await;
            let sent = self.taken();
            if !sent.is_empty() {
                return sent;
            }
        }
        panic!("nothing went out");
    }

    /// Nothing goes out for a good while.
    async fn sends_nothing(&self) {
        for _ in 0..100 {
            self.turn().await;
        }
        assert_eq!(self.taken(), []);
    }

    /// Time passes, and the store has its turn, whose thread is not tokio's.
    async fn turn(&self) {
        sleep(Duration::from_millis(50)).await;
        self.store.run(|store| store.roster_state()).await.unwrap();
    }

    fn taken(&self) -> Vec<RosterMessage> {
        let keys = [self.keys.now().control().public()];
        let sent = std::mem::take(&mut *self.link.0.lock().unwrap());
        sent.iter().map(|message| RosterMessage::open(message, &door(), &keys).unwrap()).collect()
    }
}

#[track_caller]
fn only_head(sent: Vec<RosterMessage>) -> RosterHead {
    match <[RosterMessage; 1]>::try_from(sent) {
        Ok([RosterMessage::Head(head)]) => head,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn as_long_as_nobody_has_a_badge_no_door_has_a_roster() {
    let world = world();
    world.hello(None).await;
    world.sends_nothing().await;
    world.bind(0..3).await;
    assert_eq!(only_head(world.sent().await).entries, 3);
}

#[tokio::test(start_paused = true)]
async fn changes_make_a_roster_and_a_wish_is_fulfilled() {
    let world = world();
    world.bind(0..3).await;
    world.hello(None).await;
    let first = only_head(world.sent().await);
    world.hello(Some(first.version)).await;
    world.sends_nothing().await;
    let which = Which::Person(PersonId("E-1".into()));
    world.store.run(move |store| store.revoke_badges(&which, "lost", START)).await.unwrap();
    world.hello(Some(first.version)).await;
    let second = only_head(world.sent().await);
    assert!(second.version > first.version && second.chunks != first.chunks);
    let wish = Said::Wants { controller: door(), version: second.version, from: 0, count: 4 };
    world.said.send(wish).await.unwrap();
    let sent = world.sent().await;
    assert!(matches!(&sent[..], [RosterMessage::Chunk(chunk)] if chunk.bytes.len() == 3 * 17), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_door_that_heard_more_from_an_earlier_life_is_given_a_newer_roster() {
    let world = world();
    world.bind(0..3).await;
    world.hello(None).await;
    let claimed = only_head(world.sent().await).version + 10_000_000;
    world.hello(Some(claimed)).await;
    let newer = async {
        loop {
            let sent = world.sent().await;
            let is_newer = |message: &RosterMessage| matches!(message, RosterMessage::Head(head) if head.version > claimed);
            if sent.iter().any(is_newer) {
                break;
            }
        }
    };
    newer.await;
}

#[tokio::test(start_paused = true)]
async fn from_the_rotation_of_the_token_key_on_every_badge_is_on_the_roster_under_both() {
    let mut world = world();
    world.bind(0..3).await;
    world.hello(None).await;
    let first = only_head(world.sent().await);
    assert_eq!(first.entries, 3);
    keyring::tests::rotate(world.folder.path(), Kind::Token);
    world.looking.look().unwrap();
    world.hello(Some(first.version)).await;
    let second = only_head(world.sent().await);
    assert_eq!(second.entries, 6);
    assert!(second.version > first.version);
}
