//! One suite, every store: what `Users`, `Sessions` and `LoginThrottle` promise, whoever keeps the records.
//!
//! A store joins by implementing [`Deployment`] and adding one `contract!` line. Only what a particular store
//! adds (files, processes, kill -9) lives in a module of its own.

#[path = "store_contract/embedded.rs"]
mod embedded;
#[path = "store_contract/ending.rs"]
mod ending;
#[path = "store_contract/mongodb.rs"]
mod mongodb;
#[path = "store_contract/mongodb_adoption.rs"]
mod mongodb_adoption;
#[path = "store_contract/mongodb_faults.rs"]
mod mongodb_faults;
#[path = "store_contract/redis.rs"]
mod redis;
#[path = "store_contract/redis_failover.rs"]
mod redis_failover;
#[path = "store_contract/redis_faults.rs"]
mod redis_faults;
#[path = "store_contract/redis_figures.rs"]
mod redis_figures;
#[path = "store_contract/redis_following.rs"]
mod redis_following;
#[path = "store_contract/redis_keys.rs"]
mod redis_keys;
#[path = "store_contract/redis_rates.rs"]
mod redis_rates;
#[path = "store_contract/redis_topologies.rs"]
mod redis_topologies;
#[path = "store_contract/rotation.rs"]
mod rotation;
#[path = "store_contract/servers.rs"]
mod servers;
#[path = "store_contract/support.rs"]
mod support;
#[path = "store_contract/throttle.rs"]
mod throttle;
#[path = "store_contract/users.rs"]
mod users;

use portcullis::store::settings::IdType;
use support::Deployment;

/// Runs every case of the suite, or those about users only, against the deployment that `$make` sets up.
macro_rules! contract {
    (users only, $name:ident, $make:expr) => {
        mod $name {
            contract!(@users $make);
        }
    };
    ($name:ident, $make:expr) => {
        mod $name {
            contract!(@users $make);
            contract!(@sessions $make);
        }
    };
    (@users $make:expr) => {
        contract!(@cases $make,
            users: [
                one_of_a_hundred_creates_of_one_address_wins,
                an_id_is_used_once,
                what_was_written_is_read_back,
                a_change_is_applied_together_or_not_at_all,
                a_hash_is_replaced_only_while_it_is_the_expected_one,
                a_sessions_cut_never_moves_back,
                pages_follow_the_order_of_ids,
                a_deleted_user_is_gone_and_frees_the_address,
                text_of_any_kind_survives,
            ]
        );
    };
    (@sessions $make:expr) => {
        contract!(@cases $make,
            rotation: [
                the_current_token_is_rotated,
                the_predecessor_is_replayed_up_to_the_very_end_of_the_grace,
                one_millisecond_after_the_grace_it_is_reuse,
                a_replay_leaves_the_family_untouched,
                an_older_token_is_reuse_even_within_the_grace,
                a_generation_from_the_future_means_lost_history,
                generation_zero_was_never_handed_out,
                a_family_dies_at_its_idle_expiry,
                a_family_dies_at_its_absolute_expiry,
                use_extends_the_idle_expiry_but_not_past_the_absolute_one,
                an_unknown_family_and_one_of_another_user_look_the_same,
                reuse_stays_dead_whatever_is_presented,
                a_clock_that_went_backwards_breaks_nothing,
                a_hundred_parallel_rotations_have_one_successor,
                a_chain_of_rotations_counts_by_one,
            ],
            ending: [
                ending_a_session_deletes_it_and_revokes_its_access_tokens,
                ending_an_unknown_session_still_revokes_it,
                nobody_ends_a_session_of_another_user,
                ending_all_spares_the_kept_and_the_later_ones,
                ending_all_without_keep_spares_nothing_that_began_before,
                a_login_on_its_way_during_end_all_is_over_before_it_begins,
                rotation_that_goes_well_revokes_nothing,
                the_list_holds_live_sessions_newest_first,
                revocations_in_force_are_replayed_at_start,
                a_replayed_revocation_ends_with_the_tokens_it_is_about,
                another_process_is_heard_within_a_second,
            ],
            throttle: [
                two_hundred_parallel_guesses_share_one_counter,
                delays_double_up_to_the_longest,
                a_known_device_is_not_blocked_by_strangers,
                a_known_device_has_a_run_of_its_own,
                an_address_is_limited_over_all_accounts,
                an_addresses_window_ends,
                success_clears_the_run_and_takes_its_count_back,
                an_undecided_attempt_counts_for_nothing,
                after_the_last_failure_only_forgiveness_or_the_known_device_unlocks,
                blocked_attempts_are_not_counted,
                a_clock_that_went_backwards_blocks_no_longer_than_the_delay,
            ]
        );
    };
    (@cases $make:expr, $($suite:ident: [$($case:ident),+ $(,)?]),+) => {
        $(mod $suite {
            use crate::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$suite::$case(&$make).await;
                }
            )+
        })+
    };
}

contract!(on_sqlite, embedded::Files::new());
contract!(users only, on_mongodb, mongodb::OneDatabase::new(IdType::String));
contract!(on_redis, redis::Shared::one_server());
contract!(on_a_redis_cluster, redis::Shared::cluster());

/// What expires is removed by sweeping, in stores that do not forget by themselves.
mod sqlite_sweeps {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_expired_and_keeps_what_was_revoked() {
        crate::ending::a_sweep_removes_what_expired_and_keeps_what_was_revoked(&crate::embedded::Files::new()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_run_only_when_it_is_long_over() {
        crate::throttle::a_run_outlives_a_sweep(&crate::embedded::Files::new()).await;
    }
}

const _: fn(&embedded::Files) -> &dyn Deployment = |files| files;
