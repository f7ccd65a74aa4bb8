//! Measures the log alone: 64 tasks on two threads append distinct webhook bodies and wait for each answer.
//!
//! `cargo bench --bench log_append` prints appends per second and CPU microseconds for each append.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a bench")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use stagepost::{
    clock::Clock,
    log::{
        AckLane, Append, Class, Done, Kind, Log, NewEntry, QueueLimits,
        sled::{Settings, SledLog},
    },
    telemetry::Metrics,
};

fn body(number: u64) -> String {
    let mut text = format!(
        r#"{{"id":"evt_{number:016x}","type":"invoice.paid","created":{},"data":{{"object":{{"#,
        1_700_000_000 + number
    );
    let mut seed = number;
    for field in 0..22 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!(r#""field_name_{field}":"value {:x}","#, seed >> 24));
    }
    text.push_str(r#""livemode":true}}}"#);
    text
}

fn main() {
    let seconds = 5;
    let directory = tempfile::tempdir_in("target").unwrap();
    let settings = Settings {
        directory: directory.path().into(),
        segment_bytes: 64 << 20,
        max_size: 100 << 30,
        reserve: 64 << 20,
        queue: QueueLimits::standard(),
        barrier: Settings::sync_data(),
    };
    let clock = Clock::system();
    let metrics = Arc::new(Metrics::default());
    let log: Arc<dyn Log> = Arc::new(SledLog::open(settings, metrics.clone(), clock.clone()).unwrap());
    let bodies: Arc<Vec<String>> = Arc::new((0..8192).map(body).collect());
    let count = Arc::new(AtomicU64::new(0));
    let began = clock.elapsed();
    let threads: Vec<_> = (0..2)
        .map(|shard| {
            let (log, bodies, count, clock) = (log.clone(), bodies.clone(), count.clone(), clock.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let lane = AckLane::new();
                runtime.spawn(lane.clone().run());
                let tasks: Vec<_> = (0..32)
                    .map(|task| {
                        let (log, bodies, count, clock, lane) =
                            (log.clone(), bodies.clone(), count.clone(), clock.clone(), lane.clone());
                        runtime.spawn(async move {
                            let mut at = shard * 4096 + task * 128;
                            while clock.elapsed() - began < Duration::from_secs(seconds) {
                                at = (at + 1) % bodies.len();
                                let payload = bytes::Bytes::copy_from_slice(bodies[at].as_bytes());
                                let (done, answer) = Done::through(&lane);
                                log.append(Append {
                                    parts: Vec::new(),
                                    entry: NewEntry { kind: Kind::Accepted, payload },
                                    dedupe: None,
                                    class: Class::Event,
                                    time: clock.now(),
                                    done,
                                });
                                answer.await.unwrap().unwrap();
                                count.fetch_add(1, Ordering::Relaxed);
                            }
                        })
                    })
                    .collect();
                runtime.block_on(async {
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let wall = (clock.elapsed() - began).as_secs_f64();
    let appends = count.load(Ordering::Relaxed);
    let (entries, sum) = metrics.commit_entries.read();
    let commits: u64 = entries.iter().sum();
    let (_, fsync_us) = metrics.fsync.read();
    println!(
        "{:.0} appends/s, body {} bytes, {:.1} a commit, barrier {:.0} us, stored {} bytes each",
        appends as f64 / wall,
        bodies[0].len(),
        sum as f64 / commits as f64,
        fsync_us as f64 / commits as f64,
        log.stats().bytes / appends.max(1)
    );
}
