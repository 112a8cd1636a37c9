//! What every event store must do, as one suite: each case is a function over a [`World`], and `contract_tests!` makes
//! one test of each for a store. A new store passes it before it is used.
//!
//! Whatever a case does, after every step the world checks what must always hold: positions without a gap, counters
//! that equal a scan, every lane settled.

mod archive;
mod badges;
mod binding;
mod capture;
mod clocks;
mod commands;
mod completeness;
mod delivery;
mod direction;
mod exports;
mod fleet;
mod history;
mod intake;
pub mod keepsake;
mod leases;
mod proof;
mod random;
mod reading;
mod replays;
mod rereading;
mod time;
pub mod world;

use std::sync::LazyLock;

use tempfile::TempDir;

use self::world::World;
use super::postgres::{Address, PostgresStore};
use super::sql::session::execute;
use super::sql::{Database, SqlStore};
use super::sqlite::SqliteStore;
use super::{EventStore, StoreError, UtcMs, roles};

/// A store under test, which can be closed and opened again.
pub trait UnderTest {
    fn store(&mut self) -> &mut dyn EventStore;
    fn restart(&mut self);
    /// The same store for whoever archives: on a server that is another role.
    fn archivist(&mut self) -> &mut dyn EventStore;
    /// Ranges have so many positions from here on; nothing may be stored yet.
    fn small_ranges(&mut self, size: u64);
    /// Runs a statement as the service could.
    fn run(&mut self, statement: &str) -> Result<usize, StoreError>;
    /// That is the time, whatever clock the store goes by.
    fn set_clock(&mut self, now: UtcMs);
    /// The process that uses it has a clock that is ahead by so much: of one that nobody else shares it is the clock itself.
    fn caller_is_ahead_ms(&self) -> i64;
}

fn run<D: Database>(store: &mut SqlStore<D>, statement: &str) -> Result<usize, StoreError> {
    store.database.write(|session| execute(session, statement, []))
}

/// When all stores under test are made.
const CREATED: UtcMs = UtcMs(1_700_000_000_000);

/// On a server a time goes that the cases make up: whoever asks for it asks a function of theirs, which stands before the
/// server's own in the search path. Everything else is as in production; and the process that uses it has a clock that is
/// years ahead, which nobody may notice.
///
/// The service's role is not the owner's: it may do what a role as documented may, and no more.
struct OnServer {
    address: Address,
    database: String,
    store: Option<PostgresStore>,
    archivist: PostgresStore,
    set_to: Option<UtcMs>,
}

const SERVICE: &str = "tapline_service";

/// What a clock that is not looked after may be ahead by: three years and five hours.
const AHEAD_MS: i64 = (3 * 365 * 24 + 5) * 3_600_000;

/// A clock for one database.
const INVENTED_CLOCK: &str = "CREATE SCHEMA invented; CREATE TABLE invented.clock (ms BIGINT NOT NULL); \
     INSERT INTO invented.clock VALUES (0); \
     CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog \
     AS 'SELECT to_timestamp(ms / 1000.0) FROM invented.clock'";

impl OnServer {
    fn new() -> OnServer {
        // Made once and copied, which is quicker than to run the schema for every case.
        static TEMPLATE: LazyLock<String> = LazyLock::new(|| {
            let cluster = postgres_rig::shared();
            let template = cluster.new_database();
            drop(PostgresStore::open(OnServer::owned(&template), CREATED).unwrap());
            cluster.query("postgres", &format!("CREATE ROLE {SERVICE} LOGIN")).unwrap();
            cluster.query(&template, &roles::grants("public", SERVICE)).unwrap();
            cluster.query(&template, INVENTED_CLOCK).unwrap();
            template
        });
        let database = postgres_rig::shared().new_database_from(&TEMPLATE);
        let address = OnServer::by_the_invented_clock(&postgres_rig::shared().url_as(SERVICE, &database));
        OnServer {
            set_to: None,
            store: Some(PostgresStore::open(address.clone(), CREATED).unwrap()),
            archivist: PostgresStore::open(
                OnServer::by_the_invented_clock(&postgres_rig::shared().url(&database)),
                CREATED,
            )
            .unwrap(),
            address,
            database,
        }
    }

    /// Our functions before the server's own.
    fn by_the_invented_clock(url: &str) -> Address {
        Address::new(&format!("{url}?options=-csearch_path%3Dpublic%2Cpg_catalog"), None, None).unwrap()
    }

    fn owned(database: &str) -> Address {
        Address::new(&postgres_rig::shared().url(database), None, None).unwrap()
    }
}

impl UnderTest for OnServer {
    fn store(&mut self) -> &mut dyn EventStore {
        self.store.as_mut().unwrap()
    }

    fn restart(&mut self) {
        self.store = None;
        self.store = Some(PostgresStore::open(self.address.clone(), UtcMs(CREATED.0 + 1)).unwrap());
    }

    fn archivist(&mut self) -> &mut dyn EventStore {
        &mut self.archivist
    }

    fn small_ranges(&mut self, size: u64) {
        let ranges = "DO $$ DECLARE r RECORD; BEGIN FOR r IN SELECT from_position FROM ranges LOOP \
             EXECUTE format('DROP TABLE events_%s, taps_%1$s', r.from_position); END LOOP; END $$";
        let first = format!(
            "DELETE FROM ranges; UPDATE archiving SET range_size = {size}; INSERT INTO ranges VALUES (0, 1); \
             SELECT make_ranges(); DELETE FROM ranges WHERE from_position = 0"
        );
        postgres_rig::shared().query(&self.database, &format!("{ranges}; {first}")).unwrap();
    }

    fn run(&mut self, statement: &str) -> Result<usize, StoreError> {
        run(self.store.as_mut().unwrap(), statement)
    }

    fn set_clock(&mut self, now: UtcMs) {
        if self.set_to != Some(now) {
            run(&mut self.archivist, &format!("UPDATE invented.clock SET ms = {}", now.0)).unwrap();
            self.set_to = Some(now);
        }
    }

    fn caller_is_ahead_ms(&self) -> i64 {
        AHEAD_MS
    }
}

/// A database in memory survives nothing; what a restart must keep is kept by doing nothing.
struct InMemory(SqliteStore);

impl InMemory {
    fn new() -> InMemory {
        InMemory(SqliteStore::in_memory(CREATED))
    }
}

impl UnderTest for InMemory {
    fn store(&mut self) -> &mut dyn EventStore {
        &mut self.0
    }

    fn restart(&mut self) {}

    fn archivist(&mut self) -> &mut dyn EventStore {
        &mut self.0
    }

    fn small_ranges(&mut self, size: u64) {
        run(&mut self.0, &format!("UPDATE archiving SET range_size = {size}")).unwrap();
    }

    fn run(&mut self, statement: &str) -> Result<usize, StoreError> {
        run(&mut self.0, statement)
    }

    fn set_clock(&mut self, _: UtcMs) {}

    fn caller_is_ahead_ms(&self) -> i64 {
        0
    }
}

struct InFile {
    store: Option<SqliteStore>,
    dir: TempDir,
}

impl InFile {
    fn new() -> InFile {
        let mut file = InFile { store: None, dir: tempfile::tempdir().unwrap() };
        file.restart();
        file
    }
}

impl UnderTest for InFile {
    fn store(&mut self) -> &mut dyn EventStore {
        self.store.as_mut().unwrap()
    }

    fn restart(&mut self) {
        self.store = None;
        // A later start must not take the store for a new one.
        let now = UtcMs(CREATED.0 + i64::from(self.dir.path().join("store.db").exists()));
        self.store = Some(SqliteStore::open(&self.dir.path().join("store.db"), now).unwrap());
    }

    fn archivist(&mut self) -> &mut dyn EventStore {
        self.store.as_mut().unwrap()
    }

    fn small_ranges(&mut self, size: u64) {
        self.run(&format!("UPDATE archiving SET range_size = {size}")).unwrap();
    }

    fn run(&mut self, statement: &str) -> Result<usize, StoreError> {
        run(self.store.as_mut().unwrap(), statement)
    }

    fn set_clock(&mut self, _: UtcMs) {}

    fn caller_is_ahead_ms(&self) -> i64 {
        0
    }
}

/// One test per case for the store that `$new` makes.
macro_rules! contract_tests {
    ($new:path) => {
        crate::event_store::contract::contract_tests! { @of $new;
            intake::the_first_batch_of_an_outbox_is_stored,
            intake::a_batch_sent_again_is_a_duplicate_and_changes_nothing,
            intake::a_duplicate_is_known_after_a_restart,
            intake::an_overlapping_batch_is_stored_from_the_mark_on,
            intake::a_batch_beyond_the_mark_is_not_stored_but_heard_of,
            intake::a_fork_below_the_mark_is_stored_nowhere,
            intake::a_chain_that_does_not_continue_the_mark_is_stored_nowhere,
            intake::the_mark_carries_the_hash_of_the_chain,
            intake::positions_are_gapless_over_many_outboxes,
            intake::a_group_is_answered_as_if_its_batches_came_alone,
            intake::an_unknown_controller_leaves_nothing_of_its_group,
            intake::an_opaque_record_counts_in_the_mark,
            intake::a_records_bytes_come_back_as_received,
            intake::the_same_outbox_id_at_two_controllers_is_two_outboxes,
            intake::a_hello_is_answered_with_the_mark_of_every_outbox_it_names,
            intake::a_hello_is_remembered_until_the_next,
            intake::an_absurd_last_seq_is_cut_to_what_can_exist,
            intake::a_controller_is_gone_until_its_next_hello,
            intake::nobody_minds_the_going_of_an_unknown_controller,
            intake::taking_over_finds_the_marks_of_all_outboxes,
            intake::a_controller_needs_a_known_site_and_can_move,
            intake::the_epoch_stays_over_a_restart,
            intake::dead_letters_are_kept_newest_first_and_cut,
            intake::only_the_newest_dead_letters_are_kept,
            time::a_tap_of_a_synced_clock_is_known_at_once,
            time::a_tap_without_time_is_held_until_its_boot_has_an_anchor,
            time::an_anchor_helps_the_taps_after_it_too,
            time::an_anchor_is_remembered_over_a_restart,
            time::an_anchor_of_another_boot_or_outbox_releases_nothing,
            time::anchors_in_dispute_release_nothing,
            time::a_time_known_too_loosely_is_no_time,
            time::a_later_anchor_never_changes_a_known_time,
            time::a_tap_waits_for_its_time_first_and_for_its_binding_then,
            time::a_tap_held_for_time_blocks_its_person_and_nobody_else,
            time::the_time_of_the_last_record_is_shown_if_it_is_known,
            time::a_boot_between_two_that_know_is_estimated,
            time::bounds_that_are_too_far_apart_hold_a_tap_and_are_shown,
            time::bounds_are_found_after_a_restart_and_over_several_boots,
            time::an_anchor_of_the_same_boot_in_another_outbox_helps,
            time::a_boot_id_of_another_controller_is_another_boot,
            time::a_boot_ties_the_outboxes_together_that_it_wrote_to,
            time::a_dispute_is_counted_until_it_is_over,
            time::a_vouched_clock_that_a_receipt_contradicts_is_disputed,
            time::of_many_anchors_the_nearest_count,
            time::after_a_day_nobody_waits_behind_a_tap_without_time,
            time::a_time_that_comes_after_all_gives_the_tap_its_place_again,
            time::a_time_that_comes_after_all_waits_behind_what_was_sent,
            time::what_is_set_aside_finds_its_person_when_its_time_comes,
            time::what_waits_for_its_person_is_not_set_aside,
            time::a_body_once_rendered_is_never_changed_by_a_later_anchor,
            badges::a_roster_lists_every_badge_in_order,
            badges::a_roster_is_another_when_badges_have_changed_and_only_then,
            badges::whether_there_is_a_change_is_known_without_a_roster,
            badges::a_controller_with_a_newer_roster_is_given_a_newer_one,
            badges::a_revoked_badge_is_said_to_be_in_the_next_roster,
            badges::a_revoked_badge_stays_so_over_an_import_until_it_is_reinstated,
            badges::a_tap_of_a_revoked_badge_is_delivered_all_the_same,
            badges::badges_are_listed_in_pages_by_person_and_by_number,
            badges::a_person_keeps_one_identity_under_a_new_token_key,
            badges::what_waits_under_either_key_is_released_by_an_import,
            badges::another_seal_releases_what_waits_under_it,
            badges::seals_of_unknown_badges_and_taken_tokens_count_for_nothing,
            badges::a_badge_that_became_known_under_each_key_alone_becomes_one,
            badges::a_roster_lists_the_tokens_of_every_key_in_use_and_no_other,
            binding::a_tap_of_an_unbound_badge_is_held,
            binding::binding_releases_what_was_held_for_it,
            binding::a_binding_is_remembered_over_a_restart,
            binding::an_import_says_what_it_changed,
            binding::binding_to_another_person_concerns_taps_to_come,
            binding::two_badges_of_one_person_stand_in_one_line,
            binding::a_late_binding_goes_in_front_of_what_is_pending,
            binding::a_late_binding_stays_behind_what_was_sent,
            binding::a_retry_steps_back_behind_what_a_late_binding_brought,
            binding::what_waits_for_its_time_moves_to_the_person_and_waits_on,
            history::a_badge_that_was_handed_on_gives_each_the_taps_of_their_time_however_late_they_come,
            history::what_is_not_sent_yet_goes_to_who_holds_the_badge_by_now,
            history::what_was_sent_stays_and_is_listed_as_long_as_it_is_otherwise,
            history::what_is_under_way_while_the_badge_is_handed_on_stays_and_is_listed,
            history::what_was_refused_for_good_was_told_to_nobody,
            history::a_badge_that_is_taken_back_holds_its_taps_until_it_is_given_again,
            history::taking_back_what_nobody_has_changes_nothing,
            history::a_binding_that_would_end_before_it_begins_is_left_out,
            history::a_tap_without_time_is_theirs_who_can_alone_have_made_it,
            history::a_tap_between_two_times_is_theirs_who_held_the_badge_all_the_while,
            history::only_badges_that_somebody_holds_are_revoked_with_the_person,
            history::a_badge_of_nobody_any_more_is_not_on_the_roster,
            history::two_badges_that_turn_out_to_be_one_have_one_history,
            history::many_waiting_taps_are_released_in_the_order_in_which_they_were_stored,
            history::differences_are_paged_the_newest_taps_first,
            direction::without_a_rule_a_tap_goes_as_its_reader_is_placed,
            direction::taps_of_a_person_alternate_where_the_site_wants_it,
            direction::a_tap_that_comes_late_changes_those_after_it_and_what_was_told_is_listed,
            direction::a_lease_that_ran_out_leaves_what_was_maybe_told_as_it_was,
            direction::a_badge_that_is_handed_on_takes_its_taps_out_of_the_turns,
            direction::a_tap_whose_time_becomes_known_takes_its_turn,
            direction::what_counts_is_the_rule_at_the_taps_own_time_and_site,
            direction::a_long_gap_starts_over_and_a_second_tap_is_the_same_again,
            direction::cards_that_a_tap_or_a_list_named_are_seen,
            direction::a_site_has_the_card_profiles_that_were_said_last,
            delivery::only_heads_are_claimed_the_longest_due_first,
            delivery::a_claim_takes_no_more_than_its_limit,
            delivery::a_claim_has_all_that_a_request_needs,
            delivery::the_end_of_one_makes_the_next_pending,
            delivery::the_taps_of_one_person_are_delivered_in_order,
            delivery::a_dead_one_lets_the_next_pass,
            delivery::a_retry_stays_head_and_waits,
            delivery::what_is_put_off_for_longer_than_anything_is_due_within_a_minute,
            delivery::an_answer_once_written_down_stays,
            delivery::the_body_of_the_first_attempt_is_sent_for_ever,
            delivery::patience_is_no_failure,
            delivery::a_late_worker_changes_nothing_but_is_written_down,
            delivery::no_lease_is_given_twice,
            delivery::a_lease_that_ran_out_is_unknown,
            delivery::a_wall_clock_that_is_set_ends_no_lease,
            delivery::a_beat_keeps_what_is_under_way,
            delivery::two_workers_never_have_the_same_and_never_finish_it_twice,
            delivery::every_attempt_is_kept_with_its_answer_cut,
            delivery::a_destination_on_hold_gives_nothing_and_the_longest_hold_counts,
            delivery::it_says_when_to_ask_again,
            delivery::an_unknown_destination_is_an_error,
            delivery::destinations_do_not_touch_each_other,
            delivery::a_new_destination_gets_what_is_stored_from_then_on,
            delivery::a_crash_in_an_attempt_sends_the_same_again,
            delivery::workers_share_one_limit,
            delivery::a_limit_outlives_a_restart,
            delivery::what_was_never_sent_is_no_call_and_no_failure,
            delivery::a_breaker_opens_for_all_workers_and_lets_one_probe_through,
            delivery::a_paused_destination_gives_nothing_until_it_is_resumed,
            delivery::a_worker_with_old_settings_finishes_and_claims_nothing,
            delivery::a_dead_one_keeps_its_own_line_back_by_policy_and_nobody_else,
            delivery::a_dead_one_keeps_its_own_line_back_for_hours,
            delivery::what_only_a_person_can_find_out_waits_for_one_and_so_does_its_line,
            delivery::what_is_not_wanted_is_discarded_and_what_cannot_be_rendered_is_dead,
            delivery::in_shadow_mode_requests_are_written_down_and_not_sent,
            delivery::old_taps_are_told_to_a_later_destination_first_and_in_order,
            delivery::old_taps_are_told_from_a_time_on,
            delivery::live_taps_go_before_old_ones_and_do_not_starve_them,
            reading::events_are_paged_newest_first,
            reading::events_are_filtered_by_controller_kind_and_state,
            reading::an_event_is_found_by_its_id_with_all_that_happened,
            reading::an_id_that_names_nothing_finds_nothing,
            reading::a_parked_delivery_names_the_one_ahead,
            reading::controllers_are_listed_by_id_with_their_outboxes,
            reading::the_oldest_open_tap_of_a_destination_is_known,
            reading::every_state_is_counted_even_at_zero,
            reading::sites_are_listed_by_id,
            exports::taps_are_listed_by_their_time_however_late_they_were_stored,
            exports::a_stretch_has_its_first_moment_and_not_its_last,
            exports::a_line_says_whose_it_was_and_what_became_of_it,
            exports::a_tap_without_a_time_is_counted_and_in_no_list,
            replays::letters_are_counted_by_reason_with_what_was_said_last,
            replays::a_letter_is_sent_again_under_its_key_and_by_what_is_known_now,
            replays::the_members_of_a_replay_are_those_of_when_it_was_made,
            replays::many_positions_are_gone_through_in_portions_and_none_is_left_out,
            replays::a_filter_by_time_takes_the_taps_of_that_time,
            replays::only_a_few_members_are_open_at_a_time,
            replays::of_a_line_one_goes_after_the_other_and_never_beside_a_live_tap,
            replays::a_live_tap_waits_for_one_member_at_most,
            replays::live_taps_have_their_share_while_there_is_a_replay,
            replays::a_paused_replay_begins_nothing_and_goes_on_where_it_was,
            replays::a_cancelled_replay_leaves_the_rest_as_it_was,
            replays::a_process_may_die_between_any_two_turns,
            replays::a_discarded_letter_frees_its_line,
            replays::what_a_person_says_was_processed_is_delivered_by_their_word,
            replays::what_may_have_been_processed_is_sent_again_as_it_was,
            replays::a_letter_that_keeps_its_line_back_goes_first_and_does_so_again_if_refused,
            replays::a_member_that_is_refused_keeps_nobody_back,
            replays::what_was_told_otherwise_is_corrected_before_other_members,
            replays::a_correction_that_is_refused_leaves_the_difference,
            replays::what_cannot_be_sent_again_is_left_as_it_was_with_the_reason,
            replays::what_was_dealt_with_meanwhile_is_left_out,
            replays::two_replays_of_the_same_end_both,
            replays::nothing_begins_while_nothing_is_sent,
            replays::what_would_be_told_now_is_shown_without_sending_it,
            fleet::a_key_that_is_not_named_any_more_stays_for_proofs,
            fleet::a_key_can_be_good_until_a_moment,
            fleet::a_token_makes_a_controller_with_its_key_and_certificate,
            fleet::a_token_is_used_once_but_for_the_same_keys,
            fleet::a_token_of_another_secret_or_time_or_taken_back_lets_nobody_in,
            fleet::tokens_are_made_all_or_none_and_listed_newest_first,
            fleet::enrolling_again_ends_the_device_that_was_there_before,
            fleet::a_renewal_keeps_the_key_or_lets_a_new_one_take_over,
            fleet::a_revoked_controller_is_trusted_for_what_it_had_spoken_of,
            fleet::revoking_ends_certificates_and_tokens_and_retiring_only_tokens,
            fleet::a_controller_is_renamed_and_moved_without_losing_its_keys,
            fleet::every_decision_is_in_the_log,
            proof::what_is_stored_is_proved_again_by_record_key_alone,
            proof::overlapping_batches_are_proved_though_half_of_one_was_there,
            proof::what_is_not_stored_leaves_no_signature,
            proof::a_message_that_is_written_otherwise_is_kept_whole,
            proof::a_walk_is_of_one_controller_or_ends_when_nobody_listens,
            proof::a_record_key_that_was_replaced_still_proves_what_it_signed,
            proof::a_restored_store_has_a_higher_epoch_even_with_a_clock_that_is_behind,
            proof::what_is_in_quarantine_is_known_by_bytes_and_kind,
            commands::commands_are_numbered_upwards_by_the_clock_and_without_it,
            commands::one_command_after_the_other_is_next_until_it_ends,
            commands::an_open_order_is_not_given_twice_and_an_outbox_is_left_once,
            commands::only_the_newest_commands_are_kept,
            commands::places_are_told_up_to_the_mark_and_for_that_outbox_alone,
            commands::contradictions_are_counted_and_the_latest_come_first,
            commands::only_the_latest_contradictions_are_kept,
            completeness::a_door_is_complete_through_its_hello_once_all_of_it_is_receipted,
            completeness::a_hello_is_complete_through_when_the_next_one_has_its_receipts,
            completeness::a_hello_of_a_clock_that_nobody_vouches_for_is_told_by_its_boot,
            completeness::what_is_not_delivered_holds_its_own_door_back_until_a_person_sets_it_aside,
            completeness::what_is_in_doubt_or_has_no_person_or_no_time_holds_its_door_back,
            completeness::what_was_open_before_account_was_kept_is_in_it,
            completeness::an_outbox_that_went_with_its_disk_is_waited_for_until_it_is_waived,
            completeness::a_door_that_is_retired_holds_back_what_it_told_of_and_is_not_stored,
            completeness::taps_at_two_doors_are_sent_in_the_order_in_which_they_happened,
            completeness::nobody_waits_longer_for_a_door_that_is_away_than_was_agreed,
            completeness::what_stands_before_one_that_waited_for_long_enough_goes_with_it,
            completeness::one_that_comes_late_goes_with_whoever_has_waited_for_long_enough,
            completeness::what_stands_before_one_that_all_are_complete_past_is_complete_too,
            completeness::one_that_comes_late_waits_for_others_while_what_stands_behind_it_is_sent,
            completeness::one_that_comes_after_whoever_went_early_has_its_own_wait,
            completeness::one_whose_badge_was_another_persons_goes_with_whoever_has_done_with_waiting,
            completeness::old_taps_that_are_told_later_wait_for_nobody_and_keep_nobody_waiting,
            completeness::one_that_was_stored_by_a_clock_that_was_ahead_waits_no_longer_than_others,
            completeness::a_door_alone_at_its_site_waits_for_nobody,
            completeness::an_unbound_tap_waits_for_other_doors_when_it_is_bound,
            completeness::a_time_that_becomes_known_gives_a_tap_its_place_in_the_order_of_time,
            completeness::what_stands_in_line_is_brought_into_another_order_when_the_settings_want_it,
            completeness::nothing_is_claimed_while_lines_are_brought_into_order,
            completeness::a_watermark_is_moved_by_one_at_a_time_within_the_limit,
            completeness::a_watermark_is_left_alone_while_the_destination_is,
            capture::a_captured_tap_is_an_event_with_time_and_delivery_like_any_other,
            capture::batches_and_captured_taps_share_a_group,
            capture::the_same_under_the_same_key_is_answered_the_same_and_stored_once,
            capture::what_a_request_meant_is_compared_under_the_token_key_of_then,
            capture::a_tap_that_the_spool_has_taken_is_left_to_it,
            capture::one_idempotency_key_of_two_sources_is_two_taps,
            capture::an_idempotency_key_is_forgotten_after_its_time_and_not_before,
            capture::a_key_that_ended_or_was_revoked_brings_nothing,
            capture::keys_are_listed_with_their_last_use_to_the_hour_and_every_deed_is_logged,
            capture::a_door_is_no_source_and_a_source_no_door,
            capture::what_was_promised_is_stored_at_its_place_and_once,
            capture::two_promises_to_one_request_become_one_tap,
            capture::two_promises_to_two_requests_under_one_key_are_both_kept,
            capture::promises_that_are_gone_leave_a_record_that_says_so,
            capture::more_than_a_batch_is_signed_in_several,
            capture::a_source_that_is_not_known_leaves_nothing_of_what_was_promised,
            capture::another_capture_key_takes_over_and_the_old_records_stay_proved,
            archive::old_ranges_leave_for_files_and_everything_still_adds_up,
            archive::what_is_still_needed_keeps_its_range_and_says_why,
            archive::what_nobody_can_read_yet_keeps_its_range,
            archive::a_signature_on_both_sides_of_a_cut_proves_both,
            archive::a_range_that_is_not_as_it_was_read_stays,
            archive::between_the_cut_and_the_removal_nobody_sees_what_is_archived,
            archive::what_comes_late_is_timed_by_anchors_that_are_archived,
            archive::a_card_that_was_seen_long_ago_is_known_and_can_be_bound,
            archive::a_new_destination_is_told_of_what_is_left,
            archive::the_service_adds_to_what_is_append_only_and_changes_nothing_of_it,
            archive::positions_go_on_over_the_end_of_a_range,
            rereading::taps_that_nobody_could_read_are_delivered_in_their_places_and_once,
            rereading::anchors_that_nobody_could_read_tell_the_time_of_what_waits_for_it,
            rereading::starts_that_nobody_could_read_say_which_boot_is_which,
            rereading::a_controller_of_which_nothing_could_be_read_is_read_as_a_whole,
            rereading::what_was_sent_meanwhile_stays_and_the_late_one_goes_before_what_waits,
            rereading::late_ones_are_told_to_whoever_would_have_been_told_at_once,
            rereading::what_no_program_can_read_is_tried_once_by_each,
            leases::whoever_takes_in_changes_the_row_until_another_has_taken_over,
            leases::nobody_takes_over_from_a_row_that_has_changed_since_it_was_seen,
            leases::whoever_ends_in_order_leaves_the_row_to_the_next,
        }
    };
    (@of $new:path; $($module:ident::$case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                let mut world = $crate::event_store::contract::World::new(Box::new($new()));
                $crate::event_store::contract::$module::$case(&mut world);
            }
        )*
    };
}
use contract_tests;

mod in_sqlite {
    contract_tests!(super::InFile::new);
}

mod on_postgres {
    contract_tests!(super::OnServer::new);
}

/// What only processes that share a server can have: clocks that disagree.
mod of_replicas {
    super::contract_tests! { @of super::OnServer::new;
        clocks::a_day_is_the_servers_whatever_replicas_take_it_for,
        clocks::a_retry_waits_as_long_as_it_would_with_one_clock,
        clocks::what_one_puts_off_another_takes_up_to_the_millisecond,
        clocks::a_tap_that_a_wrong_clock_took_in_is_due_at_once,
        clocks::lines_that_wait_go_on_by_the_servers_hours,
        clocks::nobody_gives_up_on_a_tap_before_a_day_has_passed,
        clocks::a_tap_waits_for_other_doors_no_longer_and_no_shorter,
        clocks::a_watermark_is_begun_again_after_a_minute_of_the_servers,
        clocks::what_is_written_down_of_attempts_lies_between_what_the_server_saw,
    }
}
