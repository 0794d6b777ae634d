//! Values that are written as text: times, sizes, rates, and the word that was probably meant.
//!
//! Each reader answers with what is wrong and what to write; none repeats the text it was given, because
//! that may have come out of `${VAR}`.

use std::time::Duration;

use super::Rate;

/// What is wrong with a value, and how it should look.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad(pub &'static str, pub &'static str);

/// `10s`, `500ms`, `1h30m`, `365d`: digits and one of `ms s m h d`, one after another.
pub(super) fn duration(text: &str) -> Result<Duration, Bad> {
    const BAD: Bad =
        Bad("not a length of time", "write a number and its unit, ms, s, m, h or d: \"10s\", \"1h30m\"");
    // The longer unit names of humantime are left out: its `M` is a month and its `m` a minute.
    let ours = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'm' | b's' | b'h' | b'd'));
    if !ours || text.is_empty() || text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BAD);
    }
    humantime::parse_duration(text).map_err(|_| BAD)
}

/// Bytes: `512B`, `32KiB`, `10MiB`, `1GiB`, `5TiB`.
pub(super) fn size(text: &str) -> Result<u64, Bad> {
    const BAD: Bad =
        Bad("not a size", "write a whole number and its unit, B, KiB, MiB, GiB or TiB: \"32KiB\"");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| BAD)?;
    let unit: u64 = match &text[digits..] {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "KB" | "MB" | "GB" | "TB" | "kB" | "K" | "M" | "G" | "T" => {
            return Err(Bad(
                "not a unit of size here",
                "write B, KiB, MiB, GiB or TiB (powers of 1024): \"32KiB\"",
            ));
        }
        _ => return Err(BAD),
    };
    number.checked_mul(unit).ok_or(Bad("larger than any size", "write a smaller number"))
}

/// Requests per time: `100/1m`, 1 to 1,000,000 of them in 1s to 24h.
pub(super) fn rate(text: &str) -> Result<Rate, Bad> {
    const BAD: Bad = Bad(
        "not a rate",
        "write requests and a time: \"100/1m\" is a hundred a minute, \"10/1s\" ten a second",
    );
    let (requests, per) = text.split_once('/').ok_or(BAD)?;
    if !requests.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BAD);
    }
    let requests: u32 = requests.parse().map_err(|_| BAD)?;
    let per = duration(per).map_err(|_| BAD)?;
    if !(1..=1_000_000).contains(&requests) {
        return Err(Bad("a rate is 1 to 1,000,000 requests", "to allow none at all, remove the route"));
    }
    if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&per) {
        return Err(Bad("a rate is counted over 1s to 24h", "\"100/1m\" is a hundred a minute"));
    }
    Ok(Rate { requests, per })
}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |k: &str| {
        let folded = strsim::damerau_levenshtein(&word.to_lowercase(), &k.to_lowercase());
        folded.min(strsim::damerau_levenshtein(word, k))
    };
    // Longer words are not compared: the time grows with the product of the lengths.
    let worth = |k: &&str| word.len() <= 64 && distance(k) <= (k.chars().count() / 3).max(1);
    known.into_iter().filter(worth).min_by_key(|k| distance(k))
}

/// "`a`, `b` or `c`".
pub(super) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|w| format!("`{w}`")).collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("365d"), Ok(Duration::from_secs(365 * 86_400)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in [
            "",
            "10",
            "s",
            "1M",
            "1month",
            "-1s",
            "1.5h",
            "1 h",
            "ten",
            "99999999999999999999d",
            "1e3s",
            "١s",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("32KiB"), Ok(32 * 1024));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("5TiB"), Ok(5 << 40));
        assert_eq!(size("16777215TiB"), Ok(u64::MAX - (1 << 40) + 1));
        for bad in
            ["", "KiB", "32", "32KB", "1.5MiB", "-1B", "99999999999GiB", "16777216TiB", "5TB", "32 KiB", "é"]
        {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(rate("100/1m"), Ok(Rate { requests: 100, per: Duration::from_secs(60) }));
        for bad in ["", "100", "/1m", "0/1m", "100/m", "+5/1s", "5/1ms", "5/25h", "1000001/1s", "1/1s/1s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_word_that_was_meant() {
        assert_eq!(closest("listne", ["listen", "admin"]), Some("listen"));
        assert_eq!(closest("es256", ["EdDSA", "ES256"]), Some("ES256"));
        assert_eq!(closest("zebra", ["listen", "admin"]), None);
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
