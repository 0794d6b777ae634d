//! The decision on a presented refresh token (DESIGN section 4), apart from where families are kept.

use crate::clock::Timestamp;
use crate::store::{Family, FamilyState, RefreshPolicy, Rotation};

/// What `presented`, a generation whose MAC was good, means for `family` at `now`. Changes nothing; the store
/// applies the outcome in the transaction that read the family: [`Rotation::Rotated`] by [`Family::succeed`],
/// [`Rotation::Reuse`] and [`Rotation::LostHistory`] by revoking.
///
/// Generations are compared before clocks. A clock that went back behind `rotated_at` counts as no time passed.
pub fn decide(family: &Family, presented: u64, policy: RefreshPolicy, now: Timestamp) -> Rotation {
    if family.state == FamilyState::Revoked || family.expired(now) {
        return Rotation::Dead;
    }
    if presented == 0 || presented > family.generation {
        return Rotation::LostHistory;
    }
    if presented == family.generation {
        return match family.generation.checked_add(1) {
            Some(generation) => Rotation::Rotated { generation },
            None => Rotation::LostHistory,
        };
    }
    if presented == family.generation - 1 && now <= family.rotated_at.plus(policy.grace) {
        return Rotation::Replay { generation: family.generation };
    }
    Rotation::Reuse
}

impl Family {
    /// Whether nothing of it is valid any more at `now`; an expiry is the first instant that is too late.
    pub fn expired(&self, now: Timestamp) -> bool {
        now >= self.idle_expiry || now >= self.absolute_expiry
    }

    /// The family after a rotation to `generation`.
    #[must_use]
    pub fn succeed(self, generation: u64, address: &str, policy: RefreshPolicy, now: Timestamp) -> Self {
        Self {
            generation,
            rotated_at: now,
            idle_expiry: now.plus(policy.idle_ttl).min(self.absolute_expiry),
            address: address.to_owned(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const POLICY: RefreshPolicy = RefreshPolicy {
        grace: Duration::from_secs(10),
        idle_ttl: Duration::from_secs(1_000),
        access_lifetime: Duration::from_secs(100),
    };

    fn family(generation: u64, rotated_at: i64) -> Family {
        Family {
            id: Uuid::nil(),
            user: "u".into(),
            generation,
            began: Timestamp(0),
            rotated_at: Timestamp(rotated_at),
            idle_expiry: Timestamp(rotated_at.saturating_add(1_000_000)),
            absolute_expiry: Timestamp(i64::MAX),
            state: FamilyState::Active,
            device: String::new(),
            address: String::new(),
        }
    }

    proptest! {
        /// Whatever is presented, whenever: only the current generation moves the counter, by one; only its
        /// predecessor is ever replayed; nothing panics at the ends of the number ranges.
        #[test]
        fn only_the_current_generation_has_a_successor(
            generation in prop_oneof![1..5u64, Just(u64::MAX)],
            presented in prop_oneof![0..8u64, any::<u64>()],
            rotated_at in any::<i64>(),
            now in any::<i64>(),
        ) {
            let decision = decide(&family(generation, rotated_at), presented, POLICY, Timestamp(now));
            match decision {
                Rotation::Rotated { generation: next } => {
                    prop_assert_eq!(presented, generation);
                    prop_assert_eq!(next, generation + 1);
                }
                Rotation::Replay { generation: same } => {
                    prop_assert_eq!(presented + 1, generation);
                    prop_assert_eq!(same, generation);
                }
                Rotation::Reuse => prop_assert!(presented < generation),
                Rotation::LostHistory => {
                    prop_assert!(presented == 0 || presented > generation || generation == u64::MAX)
                }
                Rotation::Dead => prop_assert!(now >= rotated_at.saturating_add(1_000_000)),
                Rotation::Unknown => prop_assert!(false),
            }
        }
    }
}
