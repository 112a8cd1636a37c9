//! The person who looks after deliveries: decides about those that wait for somebody, has taps told again, and thinks better
//! of it. Knows what the command line knows; what follows is for the real store in the dispatchers' turns.

use cloud_ingest::event_store::replays::{
    Doing, Filter, NewReplay, ReplayChange, ReplayStanding, ReplayState, Replays,
};
use cloud_ingest::event_store::{Deed, DeliveryState};

use crate::dispatcher::LEGACY;
use crate::world::World;

impl World {
    /// Decides about many deliveries at once. Sometimes the command dies before all members are gathered.
    pub fn decide(&mut self) {
        let stage = &mut self.stage;
        let letters = Filter { letters: true, ..Filter::default() };
        let told =
            Filter { states: vec![DeliveryState::Delivered, DeliveryState::Dead], ..Filter::default() };
        let (doing, filter) = match stage.dice.below(4) {
            0 => (Doing::Discard, letters),
            1 => (Doing::Replay, letters),
            _ => (Doing::Replay, told),
        };
        let dies = stage.dice.percent(50);
        let deed = Deed::by_itself(stage.utc(), doing.name(), LEGACY);
        let new = NewReplay { destination: LEGACY.into(), doing, filter };
        let made = self.vault.call(stage.now_ms, |store| {
            let number = store.make_replay(&new, &deed)?;
            while !dies && store.gather(number)? {}
            Ok(number)
        });
        if let Ok(number) = made {
            stage.tally.count(&format!("decisions: {}", doing.name()));
            stage.say(format_args!("person"), format_args!("{} {number} is to be done", doing.name()));
        }
    }

    /// Pauses what is under way, or ends it.
    pub fn stop_a_replay(&mut self) {
        let stage = &mut self.stage;
        let change = if stage.dice.percent(50) { ReplayChange::Pause } else { ReplayChange::Cancel };
        let deed = Deed::by_itself(stage.utc(), "stop", LEGACY);
        let stopped = self.vault.call(stage.now_ms, |store| {
            let running = store.replays(usize::MAX)?.into_iter();
            let running = running.filter(|one| one.standing == ReplayStanding::Running).map(|one| one.no);
            let Some(newest) = running.max() else { return Ok(None) };
            store.change_replay(newest, change, &deed).map(|_| Some(newest))
        });
        if let Ok(Some(number)) = stopped {
            stage.tally.count(&format!("replays told to stop: {change:?}"));
            stage.say(format_args!("person"), format_args!("{change:?} replay {number}"));
        }
    }

    /// Has everything go on that was only paused.
    pub fn resume_replays(&mut self) {
        let deed = Deed::by_itself(self.stage.utc(), "resume", LEGACY);
        for one in self.replays() {
            if one.standing == ReplayStanding::Paused {
                let resumed = self.vault.store.change_replay(one.no, ReplayChange::Resume, &deed);
                assert!(resumed.expect("memory takes it"), "what is paused can go on");
            }
        }
    }

    /// Members that are still to be begun, as far as that can be known.
    pub fn members_waiting(&mut self) -> u64 {
        let running = self.replays().into_iter().filter(|one| one.standing == ReplayStanding::Running);
        running.map(|one| one.counts.waiting + one.counts.sending + one.to_gather).sum()
    }

    fn replays(&mut self) -> Vec<ReplayState> {
        self.vault.store.replays(usize::MAX).expect("memory answers")
    }
}
