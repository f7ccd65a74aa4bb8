//! Owns `stagepost top`: the live view, its keys, and giving the terminal back as it was.
//!
//! Promises that it only asks: two questions each look. An instance that does not answer is said, and asked again.

mod figures;
mod view;

use std::{collections::VecDeque, time::Duration};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use self::{
    figures::Counters,
    view::{Look, Sort, View, draw},
};
use super::{Exit, Failure, Host, Terminal, args::TopArgs, client::Client, instance::Instance};
use crate::admin::{Clock, wire::Status};

/// How often it is looked if nothing is said.
const EVERY_MS: u64 = 1_000;

/// Rates are over so many looks.
const LOOKS: usize = 10;

/// How often it is looked for keys.
const KEYS_EVERY: Duration = Duration::from_millis(100);

pub(super) fn top(args: &TopArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    if !terminal.out_is_terminal || !terminal.in_is_terminal {
        return Err(Failure::usage("top needs a terminal; use `stagepost status --json` in scripts"));
    }
    let instance = Instance::find(&args.place, host)?;
    let client = Client::new(&instance.socket)?;
    let clock = Clock::system();
    // Before the screen is taken: what is wrong is said on a line of its own.
    let first = look(&client, &clock)?;
    let mut screen = ratatui::try_init()?;
    let every = Duration::from_millis(args.every.unwrap_or(EVERY_MS).max(100));
    let shown = show(&mut screen, &client, &clock, first, every);
    ratatui::try_restore()?;
    shown.map(|()| Exit::Done)
}

fn look(client: &Client<'_>, clock: &Clock) -> Result<Look, Failure> {
    let status: Status = client.get("/v1/status")?;
    let metrics = client.get_bytes("/metrics")?;
    Ok(Look { at: clock.elapsed(), status, counters: Counters::read(&String::from_utf8_lossy(&metrics)) })
}

fn show(
    screen: &mut ratatui::DefaultTerminal,
    client: &Client<'_>,
    clock: &Clock,
    first: Look,
    every: Duration,
) -> Result<(), Failure> {
    let mut looks = VecDeque::from([first]);
    let (mut sort, mut reversed, mut trouble) = (Sort::Pending, false, None);
    let mut next = clock.elapsed() + every;
    loop {
        if let (Some(before), Some(now)) = (looks.front(), looks.back()) {
            let trouble = trouble.as_deref();
            let view = View { before, now, time: clock.now(), sort, reversed, trouble };
            screen.draw(|frame| draw(frame, &view))?;
        }
        if event::poll(KEYS_EVERY)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            match key.code {
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('s') => reversed = !reversed,
                KeyCode::Char(letter) => sort = Sort::of(letter).unwrap_or(sort),
                _ => {}
            }
        }
        if clock.elapsed() < next {
            continue;
        }
        next = clock.elapsed() + every;
        match look(client, clock) {
            Ok(look) => {
                trouble = None;
                // After a restart its counters begin again.
                if looks.back().is_some_and(|last| last.status.uptime_s > look.status.uptime_s) {
                    looks.clear();
                }
                looks.push_back(look);
                while looks.len() > LOOKS {
                    looks.pop_front();
                }
            }
            Err(why) => trouble = Some(why.message),
        }
    }
}
