//! Owns the figure of order by key: events stored and delivered per second, 100,000 keys one at a time, ÷ in no order.

use std::time::Duration;

use stagepost::clock::Clock;

use crate::{
    Options, Target,
    figures::{PATH, listener, load, seconds},
    load::Pace,
    pause, print,
    relay::{Home, verified, wait},
    requests::KEYS,
    upstream::{self, Receipts},
};

/// Senders wait for each answer; the time until the last delivery counts. The two are measured in turns, since the machine
/// is not the same at every moment.
pub fn order(options: &Options) {
    let clock = Clock::system();
    let duration = seconds(options, 10);
    let keyed = "order_by = { header = \"X-Key\" }";
    let (mut plain, mut ordered) = (0.0, 0.0);
    for _round in 0..3 {
        plain += delivered(options, &clock, "", duration);
        ordered += delivered(options, &clock, keyed, duration);
    }
    print("order: events stored and delivered, in no order", plain / 3.0, "/s", Target::None);
    print(&format!("order: the same, {KEYS} keys one at a time"), ordered / 3.0, "/s", Target::None);
    print("order: the second ÷ the first", ordered / plain, "", Target::AtLeast(0.7));
}

fn delivered(options: &Options, clock: &Clock, order: &str, duration: Duration) -> f64 {
    let receipts = Receipts::new(0, clock);
    let address = upstream::answering(listener(), receipts.clone());
    let sections = format!(
        "[source.figures]\npath = \"{PATH}\"\n{}\n[upstream.up]\nurl = \"http://{address}\"\n\
         [[route]]\nname = \"all\"\nto = [\"up\"]\n{order}\n",
        verified()
    );
    let home = Home::new(options, &sections);
    let relay = home.start();
    let began = clock.elapsed();
    let running = load(&home, clock, Pace::Closed).start();
    pause(duration);
    let report = running.stop();
    wait("the last delivery", || receipts.count() >= report.accepted());
    let rate = report.accepted() as f64 / (clock.elapsed() - began).as_secs_f64();
    relay.stop();
    rate
}
