//! Identity headers: strip the client's, set ours, on a request as browsers send them.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use pingora_http::RequestHeader;
use portcullis::auth::{Identity, IdentityHeaders};
use portcullis::clock::Timestamp;
use portcullis::tokens::Claims;

fn mapping() -> IdentityHeaders {
    let pairs =
        [("X-User-Id", "sub"), ("X-User-Email", "email"), ("X-User-Roles", "roles"), ("X-Session-Id", "sid")];
    IdentityHeaders::new(&pairs.map(|(header, claim)| (header.to_owned(), claim.to_owned())))
}

fn request(forged: &[(&'static str, &'static str)]) -> RequestHeader {
    let mut request = RequestHeader::build("GET", b"/api/items?page=2", None).expect("a valid request");
    let usual = [
        ("Host", "app.example.com"),
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("Accept-Language", "en-US,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate, br"),
        ("Referer", "https://app.example.com/"),
        ("Cookie", "theme=dark; portcullis_device=abc"),
        ("Sec-Fetch-Dest", "empty"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Cache-Control", "no-cache"),
    ];
    for (name, value) in usual.iter().chain(forged) {
        request.append_header(*name, *value).expect("room for a header");
    }
    request
}

fn headers(c: &mut Criterion) {
    let mapping = mapping();
    let roles = vec!["user".to_owned(), "editor".to_owned()];
    let claims =
        Claims::assumed("http://localhost:8080", "01a2048e-6882-729d-815a-e832afef7bf9", roles, Timestamp(0));
    let identity = Identity { headers: mapping.render(&claims), claims };
    let clean = request(&[]);
    let forged = request(&[("X-User-Id", "root"), ("X_User_Id", "root"), ("x.user.roles", "admin")]);

    let mut group = c.benchmark_group("identity headers");
    for (name, request) in [("honest request", clean), ("forged request", forged)] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || request.clone(),
                |request| mapping.apply(black_box(request), Some(&identity)),
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("render claims", |b| b.iter(|| mapping.render(black_box(&identity.claims))));
    group.finish();
}

criterion_group!(benches, headers);
criterion_main!(benches);
