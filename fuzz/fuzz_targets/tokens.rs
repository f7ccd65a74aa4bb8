#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stagepost_fuzz::write_corpus(env!("CARGO_MANIFEST_DIR"), "tokens"),
    |data: &[u8]| {
        stagepost_fuzz::tokens::run(data);
    }
);
