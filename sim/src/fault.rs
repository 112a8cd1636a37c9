//! What can break: the closed list, and how each thing breaks. A fault is applied at a moment that the seed chose; what it
//! does in detail, the dice say then.

use std::fmt;
use std::rc::Rc;

use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::Batch;
use tap_protocol::ids::{OutboxId, Seq};
use tap_protocol::keys::SigningKey;
use tap_protocol::record::ClockState;

use crate::broker::{MAX_QUEUED, door_name};
use crate::intake::CrashAt;
use crate::legacy::Mood;
use crate::net::{Client, Way};
use crate::stage::{Event, Stage};
use crate::world::{BADGES, World};

const TEN_YEARS_MS: i64 = 315_576_000_000;

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the documentation; what each does is said where it is done")]
pub enum Fault {
    DoorLinkCut,
    DoorLinkStalls,
    PubacksLost,
    CloudLinkCut,
    CloudLinkStalls,
    BrokerRestart,
    SessionForgotten,
    QueueOverflow,
    DuplicateDelivery,
    RedeliveryOutOfOrder,
    OldReceiptAgain,
    DelayBurst,
    TamperedMessage,
    ForeignMessage,
    IntakeCrashBeforeCommit,
    IntakeCrashAfterCommit,
    IntakeCrashAfterAck,
    IntakeKill,
    CloudKill,
    StoreAway,
    StoreAnswersLost,
    StoreRestored,
    AgentKill,
    PowerLoss,
    PowerFlickers,
    DiskFull,
    DiskSlow,
    OutboxRewound,
    CardCopied,
    DiskMoved,
    ClockTenYearsAhead,
    ClockTenYearsBehind,
    ClockBack,
    Clock1970,
    ClockFrozenWrong,
    NtpSync,
    LegacyTooMany,
    LegacyError,
    LegacyErrorAfterProcessing,
    LegacySilent,
    LegacySlow,
    LegacyGarbage,
    LegacyErrorInside,
    LegacyClosedDoor,
    LegacyBreaksOff,
    LegacyDown,
    DispatcherKill,
    DispatcherCrashBeforeFinish,
    LateWorker,
    LateBinding,
    BackupTaken,
    DayPasses,
    PersonDecides,
    PersonStops,
}

impl Fault {
    /// The closed list.
    pub const ALL: [Fault; 54] = [
        Fault::DoorLinkCut,
        Fault::DoorLinkStalls,
        Fault::PubacksLost,
        Fault::CloudLinkCut,
        Fault::CloudLinkStalls,
        Fault::BrokerRestart,
        Fault::SessionForgotten,
        Fault::QueueOverflow,
        Fault::DuplicateDelivery,
        Fault::RedeliveryOutOfOrder,
        Fault::OldReceiptAgain,
        Fault::DelayBurst,
        Fault::TamperedMessage,
        Fault::ForeignMessage,
        Fault::IntakeCrashBeforeCommit,
        Fault::IntakeCrashAfterCommit,
        Fault::IntakeCrashAfterAck,
        Fault::IntakeKill,
        Fault::CloudKill,
        Fault::StoreAway,
        Fault::StoreAnswersLost,
        Fault::StoreRestored,
        Fault::AgentKill,
        Fault::PowerLoss,
        Fault::PowerFlickers,
        Fault::DiskFull,
        Fault::DiskSlow,
        Fault::OutboxRewound,
        Fault::CardCopied,
        Fault::DiskMoved,
        Fault::ClockTenYearsAhead,
        Fault::ClockTenYearsBehind,
        Fault::ClockBack,
        Fault::Clock1970,
        Fault::ClockFrozenWrong,
        Fault::NtpSync,
        Fault::LegacyTooMany,
        Fault::LegacyError,
        Fault::LegacyErrorAfterProcessing,
        Fault::LegacySilent,
        Fault::LegacySlow,
        Fault::LegacyGarbage,
        Fault::LegacyErrorInside,
        Fault::LegacyClosedDoor,
        Fault::LegacyBreaksOff,
        Fault::LegacyDown,
        Fault::DispatcherKill,
        Fault::DispatcherCrashBeforeFinish,
        Fault::LateWorker,
        Fault::LateBinding,
        Fault::BackupTaken,
        Fault::DayPasses,
        Fault::PersonDecides,
        Fault::PersonStops,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl World {
    /// Breaks something.
    pub fn strike(&mut self, fault: Fault) {
        let stage = &mut self.stage;
        let at = stage.dice.below(self.doors.len() as u64) as usize;
        let now_ms = stage.now_ms;
        stage.tally.count(&format!("fault: {fault}"));
        stage.say(format_args!("FAULT"), format_args!("{fault} (door {})", at + 1));
        let door = &mut self.doors[at];
        let door_conn = self.broker.conn(Client::Door(at));
        let cloud_conn = self.broker.conn(Client::Cloud);
        match fault {
            Fault::DoorLinkCut => {
                let out_ms = stage.dice.below(60_000);
                stage.shut_out(Client::Door(at), out_ms);
                door_conn.into_iter().for_each(|conn| stage.cut(conn, 1_000));
            }
            // Half-open: nothing comes through, and nobody notices before the keep-alive does.
            Fault::DoorLinkStalls => door_conn.into_iter().for_each(|conn| stage.cut(conn, 60_000)),
            Fault::PubacksLost => {
                if let Some(conn) = door_conn {
                    stage.net.close(conn, Way::Down);
                    let notice_ms = stage.dice.between(1_000, 45_000);
                    stage.after(notice_ms, Event::ClientNotices(conn));
                    stage.after(60_000, Event::BrokerNotices(conn));
                }
            }
            Fault::CloudLinkCut => {
                let out_ms = stage.dice.below(60_000);
                stage.shut_out(Client::Cloud, out_ms);
                cloud_conn.into_iter().for_each(|conn| stage.cut(conn, 1_000));
            }
            Fault::CloudLinkStalls => cloud_conn.into_iter().for_each(|conn| stage.cut(conn, 60_000)),
            Fault::BrokerRestart => {
                let down_ms = stage.dice.between(500, 30_000);
                self.broker.restart(stage, down_ms);
            }
            Fault::SessionForgotten => self.broker.forget_session(stage),
            Fault::QueueOverflow => {
                self.broker.queue_limit = stage.dice.below(3) as usize;
                let out_ms = stage.dice.between(5_000, 60_000);
                stage.shut_out(Client::Cloud, out_ms);
                cloud_conn.into_iter().for_each(|conn| stage.cut(conn, 100));
            }
            Fault::DuplicateDelivery => {
                self.broker.doubles_until_ms = now_ms + stage.dice.between(5_000, 60_000)
            }
            Fault::RedeliveryOutOfOrder => {
                self.broker.shuffles = true;
                cloud_conn.into_iter().for_each(|conn| stage.cut(conn, 100));
            }
            Fault::OldReceiptAgain => (0..5).for_each(|_| self.broker.repeat_receipt(stage)),
            Fault::DelayBurst => {
                let extra_ms = stage.dice.between(200, 8_000);
                stage.net.slow = (extra_ms, now_ms + stage.dice.between(5_000, 60_000));
            }
            Fault::TamperedMessage => self.broker.tamper = 3,
            Fault::ForeignMessage => {
                let strange = foreign_batch(stage, at, &door.machine.key);
                self.broker.route(stage, &strange);
            }
            Fault::IntakeCrashBeforeCommit => self.intake.crash_at = Some(CrashAt::BeforeCommit),
            Fault::IntakeCrashAfterCommit => self.intake.crash_at = Some(CrashAt::AfterCommit),
            Fault::IntakeCrashAfterAck => self.intake.crash_at = Some(CrashAt::AfterAck),
            Fault::IntakeKill => {
                let back_in_ms = stage.dice.between(500, 60_000);
                self.intake.die(stage, back_in_ms);
            }
            Fault::CloudKill => {
                let back_in_ms = stage.dice.between(500, 60_000);
                self.intake.die(stage, back_in_ms);
                self.dispatchers.iter_mut().for_each(|one| one.die(stage, back_in_ms));
            }
            Fault::StoreAway => self.vault.away_until_ms = now_ms + stage.dice.between(1_000, 45_000),
            Fault::StoreAnswersLost => self.vault.lost_answers += stage.dice.between(1, 4) as u32,
            Fault::StoreRestored => self.restore_store(),
            // A machine without power has no process to kill.
            Fault::AgentKill if !door.is_up() => {}
            Fault::AgentKill => {
                let back_in_ms = stage.dice.between(500, 20_000);
                door.die(stage);
                door.start(stage, back_in_ms);
            }
            Fault::PowerLoss => {
                let back_in_ms = stage.dice.between(5_000, 90_000);
                door.die(stage);
                door.machine.reboot(stage, back_in_ms);
                door.start(stage, back_in_ms);
                if stage.dice.percent(25) {
                    let full_ms = back_in_ms + stage.dice.between(1_000, 30_000);
                    door.machine.disk_full_until_ms = now_ms + full_ms;
                }
            }
            // Twice within a minute, without a network and with people at the door: the boot between never learns the time.
            Fault::PowerFlickers => {
                stage.shut_out(Client::Door(at), 60_000);
                let (first_ms, second_ms) =
                    (stage.dice.between(1_000, 8_000), stage.dice.between(1_000, 8_000));
                let badge = stage.dice.below(BADGES as u64) as usize;
                let again_ms = 500 + first_ms + stage.dice.between(10_000, 20_000);
                for card_ms in [0, again_ms - 5_000] {
                    stage.after(card_ms, Event::Card { door: at, badge, inwards: true });
                }
                stage.after(500, Event::PowerBlip { door: at, dark_ms: first_ms });
                stage.after(again_ms, Event::PowerBlip { door: at, dark_ms: second_ms });
            }
            Fault::DiskFull => door.machine.disk_full_until_ms = now_ms + stage.dice.between(1_000, 30_000),
            Fault::DiskSlow => door.machine.disk_slow_until_ms = now_ms + stage.dice.between(5_000, 60_000),
            Fault::OutboxRewound => self.rewind(at),
            Fault::CardCopied => {
                stage.tally.count("turns between a card and its copy");
                door.takes_turns(stage);
                // And back again, so that both have something to say.
                let again_ms = stage.dice.between(10_000, 60_000);
                stage.after(again_ms, Event::TwinsTurn { door: at });
            }
            Fault::DiskMoved => {
                let back_in_ms = stage.dice.between(5_000, 90_000);
                door.die(stage);
                door.machine.moved = true;
                door.machine.reboot(stage, back_in_ms);
                door.start(stage, back_in_ms);
            }
            Fault::ClockTenYearsAhead => door.machine.set_clock(TEN_YEARS_MS, ClockState::Unsynced),
            Fault::ClockTenYearsBehind => door.machine.set_clock(-TEN_YEARS_MS, ClockState::Unsynced),
            Fault::ClockBack => {
                let back_ms = stage.dice.between(1_000, 7_200_000) as i64;
                let error_ms = door.machine.clock_error_ms() - back_ms;
                door.machine.set_clock(error_ms, ClockState::Unsynced);
            }
            Fault::Clock1970 => door.machine.set_clock_to_1970(stage),
            Fault::ClockFrozenWrong => door.machine.freeze_clock(stage),
            Fault::NtpSync => door.machine.set_clock(0, ClockState::Synced),
            Fault::LegacyTooMany => self.mood(Mood::TooMany),
            Fault::LegacyError => self.mood(Mood::Error),
            Fault::LegacyErrorAfterProcessing => self.mood(Mood::ErrorAfterProcessing),
            Fault::LegacySilent => self.mood(Mood::SilentAfterProcessing),
            Fault::LegacySlow => self.mood(Mood::Slow),
            Fault::LegacyGarbage => self.mood(Mood::Garbage),
            Fault::LegacyErrorInside => self.mood(Mood::ErrorInside),
            Fault::LegacyClosedDoor => self.mood(Mood::ClosedDoor),
            Fault::LegacyBreaksOff => self.mood(Mood::BreaksOff),
            Fault::LegacyDown => self.mood(Mood::Down),
            Fault::DispatcherKill => {
                let back_in_ms = stage.dice.between(500, 60_000);
                let which = stage.dice.below(self.dispatchers.len() as u64) as usize;
                self.dispatchers[which].die(stage, back_in_ms);
            }
            Fault::DispatcherCrashBeforeFinish => {
                let which = stage.dice.below(self.dispatchers.len() as u64) as usize;
                self.dispatchers[which].crash_before_finish = true;
            }
            Fault::LateWorker => {
                let more = stage.dice.between(1, 4) as u32;
                let which = stage.dice.below(self.dispatchers.len() as u64) as usize;
                self.dispatchers[which].late_workers += more;
            }
            Fault::LateBinding => {
                self.bind_one_unbound();
            }
            // For those who wait for their time; nobody else would notice.
            Fault::DayPasses => self.dispatchers.iter_mut().for_each(|one| one.a_day_passes = true),
            Fault::PersonDecides => self.decide(),
            Fault::PersonStops => self.stop_a_replay(),
            Fault::BackupTaken => {
                door.machine.backup = Some(door.machine.disk.medium());
                self.vault.backup = Some(self.vault.store.copy().expect("memory takes it"));
            }
        }
    }

    /// Everything is whole again; what is late stays late.
    pub fn heal(&mut self) {
        let now_ms = self.stage.now_ms;
        self.stage.say(format_args!("HEAL"), format_args!("everything is whole again"));
        self.stage.net.out.clear();
        self.stage.net.slow = (0, 0);
        self.broker.queue_limit = MAX_QUEUED;
        (self.broker.shuffles, self.broker.doubles_until_ms, self.broker.tamper) = (false, 0, 0);
        self.intake.crash_at = None;
        (self.vault.away_until_ms, self.vault.lost_answers) = (0, 0);
        for one in &mut self.dispatchers {
            (one.late_workers, one.crash_before_finish) = (0, false);
        }
        self.legacy.is_now(Mood::Well, now_ms);
        for door in &mut self.doors {
            (door.machine.disk_full_until_ms, door.machine.disk_slow_until_ms) = (0, 0);
        }
        while self.bind_one_unbound() {}
        self.resume_replays();
    }

    fn mood(&mut self, mood: Mood) {
        let until_ms = self.stage.now_ms + self.stage.dice.between(5_000, 90_000);
        self.legacy.is_now(mood, until_ms);
    }

    /// The disk is put back to its backup.
    fn rewind(&mut self, at: usize) {
        let Some(backup) = self.doors[at].machine.backup.clone() else { return };
        let stage = &mut self.stage;
        let back_in_ms = stage.dice.between(5_000, 60_000);
        let door = &mut self.doors[at];
        door.die(stage);
        let before = std::mem::replace(&mut door.machine.disk, backup);
        door.machine.reboot(stage, back_in_ms);
        door.start(stage, back_in_ms);
        let destroyed = stage.oracle.disk_replaced(&before, &self.doors);
        stage.tally.count("outboxes put back");
        stage.say(format_args!("FAULT"), format_args!("{destroyed} taps were on the newer disk only"));
        stage.oracle.look_for_all = true;
    }

    /// The store is put back to its backup, unless a door has pruned what only the store has: a backup must not be older
    /// than what the edges keep.
    fn restore_store(&mut self) {
        if self.has_pruned {
            return;
        }
        let stage = &mut self.stage;
        if !self.vault.restore(stage.utc()) {
            return;
        }
        stage.tally.count("stores put back");
        let back_in_ms = stage.dice.between(500, 30_000);
        self.intake.die(stage, back_in_ms);
        self.dispatchers.iter_mut().for_each(|one| one.die(stage, back_in_ms));
        self.vault.backup = None;
        let now_ms = stage.now_ms;
        let destroyed = stage.oracle.store_replaced(&mut self.vault.store, &self.doors, now_ms);
        stage.say(format_args!("FAULT"), format_args!("{destroyed} taps are on no disk any more"));
        self.bind_again();
    }
}

/// A batch that must not be stored: signed by a stranger, or by another door.
fn foreign_batch(stage: &mut Stage, door: usize, key: &SigningKey) -> Rc<crate::net::Message> {
    let outbox = OutboxId(stage.dice.bytes());
    let stranger = SigningKey::from_seed(&stage.dice.bytes());
    let own = stage.dice.percent(50);
    let claimed = if own { door + 1 } else { door };
    let batch = Batch {
        controller: door_name(claimed).parse().expect("it is a slug"),
        outbox,
        first_seq: Seq(1),
        hash_before: ChainHash::start(outbox),
        records: vec![vec![1, 2, 3]],
    };
    let payload = batch.sign(if own { key } else { &stranger });
    let topic = format!("tap/v1/{}/records", door_name(claimed));
    stage.message(topic, payload)
}
