//! Sessions that end, and who hears of it.

use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::store::{Family, Rotation, SessionsCut};
use uuid::Uuid;

use crate::support::{DAY, Deployment, Gateway, HOUR, MS, family, policy, start, within};

async fn opened(gateway: &Gateway, user: &str, began: Timestamp) -> Family {
    let family = family(user, began);
    gateway.sessions.open(family.clone()).await.unwrap();
    family
}

async fn rotate(gateway: &Gateway, family: &Family, now: Timestamp) -> Rotation {
    gateway.sessions.rotate(&family.user, family.id, 1, "192.0.2.2", policy(), now).await.unwrap()
}

pub async fn ending_a_session_deletes_it_and_revokes_its_access_tokens(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let (gone, stays) = (opened(&gateway, "u1", t0).await, opened(&gateway, "u1", t0).await);
    assert!(gateway.sessions.end("u1", gone.id, policy(), t0).await.unwrap());
    assert_eq!(gateway.heard.sessions(), [("u1".to_owned(), gone.id, t0.plus(policy().access_lifetime))]);
    assert_eq!(rotate(&gateway, &gone, t0).await, Rotation::Unknown);
    assert_eq!(rotate(&gateway, &stays, t0).await, Rotation::Rotated { generation: 2 });
}

pub async fn ending_an_unknown_session_still_revokes_it(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let id = Uuid::now_v7();
    assert!(!gateway.sessions.end("u1", id, policy(), t0).await.unwrap());
    assert_eq!(gateway.heard.sessions(), [("u1".to_owned(), id, t0.plus(policy().access_lifetime))]);
    // A second time adds nothing: whoever repeats himself does not fill the store.
    assert!(!gateway.sessions.end("u1", id, policy(), t0.plus(MS)).await.unwrap());
    assert_eq!(gateway.heard.sessions().len(), 1);
}

pub async fn nobody_ends_a_session_of_another_user(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, "u1", t0).await;
    assert!(!gateway.sessions.end("u2", family.id, policy(), t0).await.unwrap());
    // A store that does not look for the owner may revoke what u2 named, but only as a session of u2.
    assert!(gateway.heard.sessions().iter().all(|(user, _, _)| user == "u2"));
    assert_eq!(rotate(&gateway, &family, t0).await, Rotation::Rotated { generation: 2 });
}

pub async fn ending_all_spares_the_kept_and_the_later_ones(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let old = opened(&gateway, "u1", t0.minus(HOUR)).await;
    let same_instant = opened(&gateway, "u1", t0).await;
    let kept = opened(&gateway, "u1", t0.minus(HOUR)).await;
    let later = opened(&gateway, "u1", t0.plus(MS)).await;
    let other = opened(&gateway, "u2", t0.minus(HOUR)).await;
    let cut = SessionsCut { at: t0, keep: Some(kept.id) };
    gateway.sessions.end_all("u1", cut, policy()).await.unwrap();

    assert_eq!(gateway.heard.users(), [("u1".to_owned(), cut, t0.plus(policy().access_lifetime))]);
    let now = t0.plus(MS);
    assert_eq!(rotate(&gateway, &old, now).await, Rotation::Dead);
    assert_eq!(rotate(&gateway, &same_instant, now).await, Rotation::Dead);
    for spared in [&kept, &later, &other] {
        assert_eq!(rotate(&gateway, spared, now).await, Rotation::Rotated { generation: 2 });
    }
}

pub async fn ending_all_without_keep_spares_nothing_that_began_before(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let mut families = vec![];
    for i in 0..20 {
        families.push(opened(&gateway, "u1", t0.minus(Duration::from_secs(i))).await);
    }
    let cut = SessionsCut { at: t0, keep: None };
    gateway.sessions.end_all("u1", cut, policy()).await.unwrap();
    for family in &families {
        assert_eq!(rotate(&gateway, family, t0).await, Rotation::Dead);
    }
    assert!(gateway.sessions.list("u1", t0).await.unwrap().is_empty());
}

pub async fn a_login_on_its_way_during_end_all_is_over_before_it_begins(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    gateway.sessions.end_all("u1", SessionsCut { at: t0, keep: None }, policy()).await.unwrap();
    let late = opened(&gateway, "u1", t0.minus(MS)).await;
    assert_eq!(rotate(&gateway, &late, t0).await, Rotation::Dead);
    let new = opened(&gateway, "u1", t0.plus(MS)).await;
    assert_eq!(rotate(&gateway, &new, t0.plus(MS)).await, Rotation::Rotated { generation: 2 });
}

pub async fn rotation_that_goes_well_revokes_nothing(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let family = opened(&gateway, "u1", t0).await;
    rotate(&gateway, &family, t0).await;
    rotate(&gateway, &family, t0).await;
    assert_eq!(rotate(&gateway, &family, family.idle_expiry.plus(HOUR)).await, Rotation::Dead);
    assert!(gateway.heard.nothing());
}

pub async fn the_list_holds_live_sessions_newest_first(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let first = opened(&gateway, "u1", t0.minus(DAY)).await;
    let second = opened(&gateway, "u1", t0).await;
    let ended = opened(&gateway, "u1", t0).await;
    opened(&gateway, "u2", t0).await;
    gateway.sessions.end("u1", ended.id, policy(), t0).await.unwrap();
    assert_eq!(gateway.sessions.list("u1", t0).await.unwrap(), [second.clone(), first.clone()]);
    assert_eq!(gateway.sessions.list("u1", first.idle_expiry).await.unwrap(), [second]);
}

pub async fn a_sweep_removes_what_expired_and_keeps_what_was_revoked(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let expired = opened(&gateway, "u1", t0.minus(91 * DAY)).await;
    let live = opened(&gateway, "u1", t0).await;
    let revoked = opened(&gateway, "u2", t0.minus(HOUR)).await;
    gateway.sessions.end_all("u2", SessionsCut { at: t0, keep: None }, policy()).await.unwrap();

    assert_eq!(gateway.sessions.sweep(t0).await.unwrap(), 1);
    assert_eq!(rotate(&gateway, &expired, t0).await, Rotation::Unknown);
    assert_eq!(rotate(&gateway, &live, t0).await, Rotation::Rotated { generation: 2 });
    assert_eq!(rotate(&gateway, &revoked, t0).await, Rotation::Dead);

    // The revocation goes with the last access token, the family with its absolute expiry.
    assert_eq!(gateway.sessions.sweep(t0.plus(policy().access_lifetime)).await.unwrap(), 1);
    assert_eq!(gateway.sessions.sweep(revoked.absolute_expiry.minus(MS)).await.unwrap(), 1);
    assert_eq!(rotate(&gateway, &revoked, t0).await, Rotation::Dead);
    assert_eq!(gateway.sessions.sweep(revoked.absolute_expiry).await.unwrap(), 1);
    assert_eq!(rotate(&gateway, &revoked, t0).await, Rotation::Unknown);
}

pub async fn revocations_in_force_are_replayed_at_start(on: &dyn Deployment) {
    let t0 = start();
    let id = Uuid::now_v7();
    let cut = SessionsCut { at: t0, keep: Some(id) };
    {
        let gateway = on.gateway().await;
        gateway.sessions.end("u1", id, policy(), t0).await.unwrap();
        gateway.sessions.end_all("u2", cut, policy()).await.unwrap();
    }
    let gateway = on.gateway().await;
    let until = t0.plus(policy().access_lifetime);
    assert_eq!(gateway.heard.sessions(), [("u1".to_owned(), id, until)]);
    assert_eq!(gateway.heard.users(), [("u2".to_owned(), cut, until)]);
}

pub async fn a_replayed_revocation_ends_with_the_tokens_it_is_about(on: &dyn Deployment) {
    let long_ago = start().minus(2 * HOUR);
    on.gateway().await.sessions.end("u1", Uuid::now_v7(), policy(), long_ago).await.unwrap();
    assert!(on.gateway().await.heard.nothing());
}

pub async fn another_process_is_heard_within_a_second(on: &dyn Deployment) {
    let (gateway, other) = (on.gateway().await, on.gateway().await);
    let t0 = start();
    let family = opened(&gateway, "u1", t0.minus(HOUR)).await;
    let cut = SessionsCut { at: t0, keep: None };
    other.sessions.end("u3", family.id, policy(), t0).await.unwrap();
    other.sessions.end_all("u1", cut, policy()).await.unwrap();
    within(Duration::from_secs(1), "the other's revocation", || !gateway.heard.users().is_empty()).await;
    assert_eq!(gateway.heard.users(), [("u1".to_owned(), cut, t0.plus(policy().access_lifetime))]);
    let heard = gateway.heard.sessions();
    assert!(heard.iter().all(|(user, _, _)| user == "u3"), "u3 has no say over a session of u1");
    assert_eq!(rotate(&gateway, &family, t0).await, Rotation::Dead);
}
