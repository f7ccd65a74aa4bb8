#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stagepost_fuzz::write_corpus(env!("CARGO_MANIFEST_DIR"), "headers"),
    |data: &[u8]| {
        stagepost_fuzz::headers::run(data);
    }
);
