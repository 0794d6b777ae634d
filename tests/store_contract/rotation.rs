//! Every row of the table in DESIGN section 4, at the edges of its clocks, and under concurrency.

use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::store::{Family, FamilyState, Rotation};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{DAY, Deployment, Gateway, HOUR, MS, SECOND, family, policy, start};

async fn opened(gateway: &Gateway, began: Timestamp) -> Family {
    let family = family("u1", began);
    gateway.sessions.open(family.clone()).await.unwrap();
    family
}

async fn rotate(gateway: &Gateway, family: &Family, presented: u64, now: Timestamp) -> Rotation {
    gateway.sessions.rotate(&family.user, family.id, presented, "192.0.2.2", policy(), now).await.unwrap()
}

async fn stored(gateway: &Gateway, family: &Family, now: Timestamp) -> Option<Family> {
    gateway.sessions.list(&family.user, now).await.unwrap().into_iter().find(|f| f.id == family.id)
}

pub async fn the_current_token_is_rotated(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    let now = t0.plus(HOUR);
    assert_eq!(rotate(&gateway, &family, 1, now).await, Rotation::Rotated { generation: 2 });
    let expected = Family {
        generation: 2,
        rotated_at: now,
        idle_expiry: now.plus(policy().idle_ttl),
        address: "192.0.2.2".into(),
        ..family.clone()
    };
    assert_eq!(stored(&gateway, &family, now).await, Some(expected));
}

pub async fn the_predecessor_is_replayed_up_to_the_very_end_of_the_grace(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    rotate(&gateway, &family, 1, t0).await;
    assert_eq!(rotate(&gateway, &family, 1, t0).await, Rotation::Replay { generation: 2 });
    let end = t0.plus(policy().grace);
    assert_eq!(rotate(&gateway, &family, 1, end).await, Rotation::Replay { generation: 2 });
    assert!(gateway.heard.nothing());
}

pub async fn one_millisecond_after_the_grace_it_is_reuse(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    rotate(&gateway, &family, 1, t0).await;
    let late = t0.plus(policy().grace).plus(MS);
    assert_eq!(rotate(&gateway, &family, 1, late).await, Rotation::Reuse);
    assert_eq!(
        gateway.heard.sessions(),
        [(family.user.clone(), family.id, late.plus(policy().access_lifetime))]
    );
    assert_eq!(stored(&gateway, &family, late).await, None);
}

pub async fn a_replay_leaves_the_family_untouched(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    rotate(&gateway, &family, 1, t0).await;
    let before = stored(&gateway, &family, t0).await.unwrap();
    for i in 1..=10 {
        assert_eq!(
            rotate(&gateway, &family, 1, t0.plus(i * SECOND)).await,
            Rotation::Replay { generation: 2 }
        );
    }
    assert_eq!(stored(&gateway, &family, t0).await.unwrap(), before);
    // Had a replay moved `rotated_at`, this would still be within the grace.
    assert_eq!(rotate(&gateway, &family, 1, t0.plus(11 * SECOND)).await, Rotation::Reuse);
}

pub async fn an_older_token_is_reuse_even_within_the_grace(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    rotate(&gateway, &family, 1, t0).await;
    rotate(&gateway, &family, 2, t0).await;
    assert_eq!(rotate(&gateway, &family, 1, t0.plus(MS)).await, Rotation::Reuse);
    assert_eq!(gateway.heard.sessions().len(), 1);
}

pub async fn a_generation_from_the_future_means_lost_history(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    for presented in [2, 3, 1_000, u64::MAX - 1, u64::MAX] {
        let family = opened(&gateway, t0).await;
        assert_eq!(rotate(&gateway, &family, presented, t0).await, Rotation::LostHistory, "{presented}");
        assert_eq!(rotate(&gateway, &family, 1, t0).await, Rotation::Dead);
        assert_eq!(
            gateway.heard.sessions().pop(),
            Some((family.user.clone(), family.id, t0.plus(policy().access_lifetime)))
        );
    }
}

pub async fn generation_zero_was_never_handed_out(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    assert_eq!(rotate(&gateway, &family, 0, t0).await, Rotation::LostHistory);
    assert_eq!(rotate(&gateway, &family, 1, t0).await, Rotation::Dead);
}

pub async fn a_family_dies_at_its_idle_expiry(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    assert_eq!(rotate(&gateway, &family, 1, family.idle_expiry).await, Rotation::Dead);
    // Nothing was decided, so that the owner is still served by a gateway whose clock is right.
    let last = family.idle_expiry.minus(MS);
    assert_eq!(rotate(&gateway, &family, 1, last).await, Rotation::Rotated { generation: 2 });
    assert!(gateway.heard.nothing());
}

pub async fn a_family_dies_at_its_absolute_expiry(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = Family { absolute_expiry: t0.plus(HOUR), ..family("u1", t0) };
    gateway.sessions.open(family.clone()).await.unwrap();
    assert_eq!(rotate(&gateway, &family, 1, t0.plus(HOUR)).await, Rotation::Dead);
    assert_eq!(
        rotate(&gateway, &family, 1, t0.plus(HOUR).minus(MS)).await,
        Rotation::Rotated { generation: 2 }
    );
    // The grace does not outlive the family.
    assert_eq!(rotate(&gateway, &family, 1, t0.plus(HOUR)).await, Rotation::Dead);
}

pub async fn use_extends_the_idle_expiry_but_not_past_the_absolute_one(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    let mut now = t0;
    for generation in 1..=4 {
        now = now.plus(80 * DAY);
        assert_eq!(
            rotate(&gateway, &family, generation, now).await,
            Rotation::Rotated { generation: generation + 1 }
        );
    }
    let kept = stored(&gateway, &family, now).await.unwrap();
    assert_eq!(kept.idle_expiry, family.absolute_expiry);
    assert_eq!(rotate(&gateway, &family, 5, family.absolute_expiry).await, Rotation::Dead);
}

pub async fn an_unknown_family_and_one_of_another_user_look_the_same(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    let strange = Family { id: Uuid::now_v7(), ..family.clone() };
    assert_eq!(rotate(&gateway, &strange, 1, t0).await, Rotation::Unknown);
    let stolen = Family { user: "u2".into(), ..family.clone() };
    for presented in [0, 1, 2, 9] {
        assert_eq!(rotate(&gateway, &stolen, presented, t0).await, Rotation::Unknown);
    }
    assert_eq!(stored(&gateway, &family, t0).await, Some(family));
    assert!(gateway.heard.nothing());
}

pub async fn reuse_stays_dead_whatever_is_presented(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    rotate(&gateway, &family, 1, t0).await;
    rotate(&gateway, &family, 2, t0).await;
    assert_eq!(rotate(&gateway, &family, 1, t0).await, Rotation::Reuse);
    for presented in [0, 1, 2, 3, 4] {
        assert_eq!(rotate(&gateway, &family, presented, t0).await, Rotation::Dead);
    }
    assert_eq!(gateway.heard.sessions().len(), 1, "the family is revoked once");
    let another = on.gateway().await;
    assert_eq!(rotate(&another, &family, 3, t0).await, Rotation::Dead, "a second gateway says the same");
}

pub async fn a_clock_that_went_backwards_breaks_nothing(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    rotate(&gateway, &family, 1, t0).await;
    let earlier = t0.minus(DAY);
    assert_eq!(rotate(&gateway, &family, 1, earlier).await, Rotation::Replay { generation: 2 });
    assert_eq!(rotate(&gateway, &family, 2, earlier).await, Rotation::Rotated { generation: 3 });
    assert_eq!(rotate(&gateway, &family, 1, earlier).await, Rotation::Reuse, "generations come first");
}

pub async fn a_hundred_parallel_rotations_have_one_successor(on: &dyn Deployment) {
    let (one, two) = (on.gateway().await, on.gateway().await);
    let t0 = start();
    let family = opened(&one, t0).await;
    let mut tasks = JoinSet::new();
    for i in 0..100 {
        let sessions = if i % 2 == 0 { one.sessions.clone() } else { two.sessions.clone() };
        let id = family.id;
        tasks.spawn(async move { sessions.rotate("u1", id, 1, "192.0.2.2", policy(), t0).await.unwrap() });
    }
    let answers = tasks.join_all().await;
    let rotated = answers.iter().filter(|a| **a == Rotation::Rotated { generation: 2 }).count();
    let replayed = answers.iter().filter(|a| **a == Rotation::Replay { generation: 2 }).count();
    assert_eq!((rotated, replayed), (1, 99));
    let kept = stored(&one, &family, t0).await.unwrap();
    assert_eq!((kept.generation, kept.rotated_at, kept.state), (2, t0, FamilyState::Active));
}

pub async fn a_chain_of_rotations_counts_by_one(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, t0).await;
    for generation in 1..=50 {
        let now = t0.plus(Duration::from_millis(generation));
        assert_eq!(
            rotate(&gateway, &family, generation, now).await,
            Rotation::Rotated { generation: generation + 1 }
        );
    }
}
