//! Users: unique, whole, in order.

use portcullis::clock::Timestamp;
use portcullis::store::{CreateError, Email, SessionsCut, User, UserChange};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Deployment, user};

pub async fn one_of_a_hundred_creates_of_one_address_wins(on: &dyn Deployment) {
    let (one, two) = (on.gateway().await, on.gateway().await);
    let mut tasks = JoinSet::new();
    for i in 0..100 {
        let users = if i % 2 == 0 { one.users.clone() } else { two.users.clone() };
        tasks.spawn(async move { users.create(user(&format!("u{i}"), "Ann@Example.com")).await });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 1);
    assert_eq!(answers.iter().filter(|a| matches!(a, Err(CreateError::AddressTaken))).count(), 99);
    assert_eq!(one.users.list(None, 10).await.unwrap().len(), 1);
}

pub async fn an_id_is_used_once(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    gateway.users.create(user("u1", "ann@example.com")).await.unwrap();
    let again = gateway.users.create(user("u1", "bob@example.com")).await;
    assert!(matches!(again, Err(CreateError::IdTaken)));
    let both = gateway.users.create(user("u1", "ann@example.com")).await;
    assert!(matches!(both, Err(CreateError::AddressTaken | CreateError::IdTaken)));
}

pub async fn what_was_written_is_read_back(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let keep = Uuid::now_v7();
    let ann = User {
        name: Some("Ann \"A\" O'Neil\u{0301}; DROP TABLE users".into()),
        roles: vec!["admin".into(), "ops, \"x\"".into()],
        scopes: vec!["orders:read".into()],
        disabled: true,
        created_at: Timestamp(-5),
        sessions_cut: Some(SessionsCut { at: Timestamp(7), keep: Some(keep) }),
        ..user("u1", "ann@example.com")
    };
    gateway.users.create(ann.clone()).await.unwrap();
    assert!(gateway.users.by_id("u1").await.unwrap() == Some(ann.clone()));
    assert!(gateway.users.by_email(&ann.email).await.unwrap() == Some(ann.clone()));
    assert!(on.gateway().await.users.by_id("u1").await.unwrap() == Some(ann));
    assert!(gateway.users.by_id("U1").await.unwrap().is_none());
    assert!(gateway.users.by_id("").await.unwrap().is_none());
    assert!(gateway.users.by_email(&Email::parse("bob@example.com").unwrap()).await.unwrap().is_none());
}

pub async fn a_change_is_applied_together_or_not_at_all(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    gateway.users.create(user("u1", "ann@example.com")).await.unwrap();
    let change = UserChange {
        name: Some(Some("Ann".into())),
        roles: Some(vec!["admin".into()]),
        scopes: Some(vec!["a".into(), "b".into()]),
        disabled: Some(true),
        sessions_cut: Some(SessionsCut { at: Timestamp(9), keep: None }),
        ..UserChange::default()
    };
    let after = gateway.users.update("u1", change).await.unwrap();
    assert!(after == gateway.users.by_id("u1").await.unwrap());
    let expected = User {
        name: Some("Ann".into()),
        roles: vec!["admin".into()],
        scopes: vec!["a".into(), "b".into()],
        disabled: true,
        sessions_cut: Some(SessionsCut { at: Timestamp(9), keep: None }),
        ..user("u1", "ann@example.com")
    };
    assert!(after == Some(expected));

    let cleared = UserChange { name: Some(None), ..UserChange::default() };
    let after = gateway.users.update("u1", cleared).await.unwrap().unwrap();
    assert_eq!((after.name, after.disabled), (None, true), "the rest stays");
    assert!(gateway.users.update("u2", UserChange::default()).await.unwrap().is_none());
}

pub async fn a_hash_is_replaced_only_while_it_is_the_expected_one(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let ann = user("u1", "ann@example.com");
    gateway.users.create(ann.clone()).await.unwrap();
    let upgrade = |from: &str, to: &str| UserChange {
        password_hash: Some(to.into()),
        if_password_hash: Some(from.into()),
        ..UserChange::default()
    };
    assert!(gateway.users.update("u1", upgrade("other", "new")).await.unwrap().is_none());
    assert!(gateway.users.by_id("u1").await.unwrap().unwrap().password_hash == ann.password_hash);
    assert!(gateway.users.update("u1", upgrade(&ann.password_hash, "new")).await.unwrap().is_some());
    assert!(gateway.users.update("u1", upgrade(&ann.password_hash, "newer")).await.unwrap().is_none());
    assert!(gateway.users.by_id("u1").await.unwrap().unwrap().password_hash == "new");
}

pub async fn a_sessions_cut_never_moves_back(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    gateway.users.create(user("u1", "ann@example.com")).await.unwrap();
    let cut = |at| UserChange {
        sessions_cut: Some(SessionsCut { at: Timestamp(at), keep: None }),
        ..UserChange::default()
    };
    gateway.users.update("u1", cut(100)).await.unwrap();
    // The clock went backwards: the sessions that are over stay over.
    let after = gateway.users.update("u1", cut(50)).await.unwrap().unwrap();
    assert_eq!(after.sessions_cut.unwrap().at, Timestamp(100));
    let after = gateway.users.update("u1", cut(150)).await.unwrap().unwrap();
    assert_eq!(after.sessions_cut.unwrap().at, Timestamp(150));
}

pub async fn pages_follow_the_order_of_ids(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    for i in [3, 1, 2, 5, 4] {
        gateway.users.create(user(&format!("u{i}"), &format!("a{i}@example.com"))).await.unwrap();
    }
    let ids = |users: Vec<User>| users.into_iter().map(|u| u.id).collect::<Vec<_>>();
    assert_eq!(ids(gateway.users.list(None, 2).await.unwrap()), ["u1", "u2"]);
    assert_eq!(ids(gateway.users.list(Some("u2"), 2).await.unwrap()), ["u3", "u4"]);
    assert_eq!(ids(gateway.users.list(Some("u25"), usize::MAX).await.unwrap()), ["u3", "u4", "u5"]);
    assert!(gateway.users.list(Some("u5"), 2).await.unwrap().is_empty());
    assert!(gateway.users.list(None, 0).await.unwrap().is_empty());
}

pub async fn a_deleted_user_is_gone_and_frees_the_address(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    gateway.users.create(user("u1", "ann@example.com")).await.unwrap();
    assert!(gateway.users.delete("u1").await.unwrap());
    assert!(!gateway.users.delete("u1").await.unwrap());
    assert!(gateway.users.by_id("u1").await.unwrap().is_none());
    gateway.users.create(user("u2", "ann@example.com")).await.unwrap();
}

pub async fn text_of_any_kind_survives(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    for (i, text) in ["", "\0", "a\0b", "{\"$ne\":null}", "%_'\"\\", "\u{10FFFF}\u{feff}", "\r\n\x1b[31m"]
        .into_iter()
        .enumerate()
    {
        let ann = User { name: Some(text.into()), ..user(&format!("u{i}"), &format!("a{i}@example.com")) };
        gateway.users.create(ann.clone()).await.unwrap();
        assert!(gateway.users.by_id(&ann.id).await.unwrap() == Some(ann), "{text:?}");
        assert!(gateway.users.by_id(text).await.unwrap().is_none(), "{text:?}");
    }
    // An address that grows when it is lower-cased, up to the limit.
    let email = Email::parse(&format!("{}@example.com", "İ".repeat(20))).unwrap();
    gateway.users.create(User { email: email.clone(), ..user("grown", "x@y") }).await.unwrap();
    assert!(gateway.users.by_email(&email).await.unwrap().is_some());
}
