#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stagepost_fuzz::write_corpus(env!("CARGO_MANIFEST_DIR"), "salesforce"),
    |data: &[u8]| {
        stagepost_fuzz::salesforce::run(data);
    }
);
