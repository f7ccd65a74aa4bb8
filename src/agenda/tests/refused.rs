//! Owns the test of the thread over a log that has no room for a while.

use super::*;

#[test]
fn a_plan_waits_for_the_deaths_it_rests_on_while_the_log_refuses_them() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let moved =
        Route { path: PathEdit { path: Some("/x".into()), ..PathEdit::default() }, ..route("two", "s", &["a"]) };
    let log = TestLog::new();
    log.at(START);
    let (sent, delivered) = mpsc::sync_channel(100);
    let deps = Deps {
        log: log.clone(),
        live: Live::new(Arc::into_inner(table(&["a", "b"], vec![route("one", "s", &["a", "b"]), moved])).unwrap()),
        evaluator: Evaluator::start(expr::Settings::standard()),
        clock: Clock::manual(START).0,
        metrics: Arc::default(),
        dispatch: Arc::new(Deliver { log: log.clone(), sent }),
        runtime: runtime.handle().clone(),
    };
    let keep = crate::state::Keep { settled: Duration::from_secs(9), dead: Duration::from_secs(9) };
    log.refuse(Kind::Attempted, 4);
    let agenda = Agenda::start(Settings::standard(home.path().join("state"), keep), deps).unwrap();
    agenda.window("b", 0);
    let event = accept(&*log, "s");
    let place = |wanted: &dyn Fn(&Entry) -> bool| log.all().iter().position(wanted);
    let is_death = |entry: &Entry| {
        let died = (entry.kind == Kind::Attempted).then(|| entry::decode_attempted(&entry.payload)).flatten();
        died.is_some_and(|died| &*died.upstream == "a" && matches!(died.change, Change::Die(_)))
    };
    let plan = loop {
        match place(&|entry| entry.kind == Kind::Planned) {
            Some(plan) => break plan,
            None => std::thread::yield_now(),
        }
    };
    assert!(place(&is_death).is_some_and(|death| death < plan), "the plan has overtaken the death");
    agenda.window("b", 16);
    assert_eq!(delivered.recv().unwrap(), event);
    agenda.stop();
}
