//! Any text is either a configuration or a list of problems that can be shown.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use portcullis::config::Config;

fuzz_target!(|text: &str| {
    let env = |name: &str| (name.len() % 2 == 0).then(|| "hunter2".to_owned());
    // No file is found there: what is read must not depend on the machine.
    match Config::parse(text, "gateway.toml", Path::new("/nonexistent"), &env) {
        Ok(loaded) => assert_eq!(loaded.warnings.count().0, 0),
        Err(problems) => {
            assert!(problems.count().0 > 0);
            let shown = problems.to_string();
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n'));
            assert!(text.contains("hunter2") || !shown.contains("hunter2"));
        }
    }
});
