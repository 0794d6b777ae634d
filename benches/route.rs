//! What a request costs before it is authenticated: head check, clean path, route.
//!
//! `cargo bench --bench route -- --quick`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portcullis::head::{HeadLimits, check, find_end};
use portcullis::route::{CleanPath, Host, HostPattern, Methods, Pattern, Table};

const HEAD: &[u8] = b"GET /api/v1/orders/8f14e45f-ceea-467f-a0e6-3c1b2d4f5a6b/items?page=2&sort=created_at HTTP/1.1\r\n\
Host: api.example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: application/json, text/plain, */*\r\n\
Accept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Referer: https://app.example.com/orders\r\n\
Authorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwOi8vbG9jYWxob3N0OjgwODAiLCJzdWIiOiI0MiIsImF1ZCI6InBvcnRjdWxsaXMifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmUtc2lnbmF0dXJl\r\n\
Origin: https://app.example.com\r\n\
Connection: keep-alive\r\n\
Sec-Fetch-Dest: empty\r\n\
Sec-Fetch-Mode: cors\r\n\
Sec-Fetch-Site: same-site\r\n\
\r\n";

fn head(c: &mut Criterion) {
    let limits = HeadLimits { bytes: 32 * 1024, fields: 100 };
    let mut group = c.benchmark_group("head");
    group.throughput(criterion::Throughput::Bytes(HEAD.len() as u64));
    group.bench_function("find_end", |b| b.iter(|| find_end(black_box(HEAD), 0)));
    group.bench_function("check", |b| b.iter(|| check(black_box(HEAD), &limits).is_ok()));
    group.finish();
}

fn clean_path(c: &mut Criterion) {
    let mut group = c.benchmark_group("clean_path");
    for (name, target) in [
        ("canonical", "/api/v1/orders/8f14e45f-ceea-467f-a0e6-3c1b2d4f5a6b/items?page=2&sort=created_at"),
        ("with_space", "/files/annual%20report%202025.pdf"),
        ("rewritten", "/files/r%c3%a9sum%c3%a9;v=1/%7Euser"),
    ] {
        group.bench_function(name, |b| b.iter(|| CleanPath::parse(black_box(target))));
    }
    group.finish();
}

fn table(routes: usize) -> Table<usize> {
    let all = (0..routes).map(|i| {
        let path = match i % 4 {
            0 => format!("/api/v1/service{i}/{{*rest}}"),
            1 => format!("/api/v1/service{i}/{{id}}/items"),
            2 => format!("/api/v1/service{i}/{{id}}"),
            _ => format!("/static{i}"),
        };
        let host = (i % 10 == 0).then(|| format!("tenant{i}.example.com"));
        let host = HostPattern::parse(host.as_deref()).expect("host");
        (host, Pattern::parse(&path).expect("pattern"), Methods::any(), i)
    });
    Table::build(all).expect("no conflicts")
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for routes in [10, 1_000, 10_000] {
        let table = table(routes);
        // The last route of each kind; nothing of it is near the front of anything.
        let id = routes - 1 - (routes - 1 - 1) % 4;
        let deep = CleanPath::parse(format!("/api/v1/service{id}/8f14e45f/items")).expect("path");
        let miss = CleanPath::parse("/api/v1/nothing/of/the/kind").expect("path");
        let host = Host::parse("api.example.com").expect("host");
        assert_eq!(table.find(&host, &deep, "GET").map(|m| *m.value), Ok(id));
        group.bench_with_input(BenchmarkId::new("match", routes), &table, |b, table| {
            b.iter(|| table.find(black_box(&host), black_box(&deep), "GET").is_ok());
        });
        group.bench_with_input(BenchmarkId::new("no_match", routes), &table, |b, table| {
            b.iter(|| table.find(black_box(&host), black_box(&miss), "GET").is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, head, clean_path, route);
criterion_main!(benches);
