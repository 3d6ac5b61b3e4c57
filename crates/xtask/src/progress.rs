//! What the user sees while something takes time: each step with its seconds, several at once. On a terminal the running
//! ones are redrawn in place; elsewhere a step gives one line at its end, and one now and then if it is long.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::pause;

/// How often a long step says that it still runs, where there is no terminal.
const REMINDER: Duration = Duration::from_secs(20);
const SPINNER: [char; 4] = ['◐', '◓', '◑', '◒'];

struct Step {
    id: usize,
    name: String,
    detail: String,
    started: Instant,
    reminded: Instant,
}

#[derive(Default)]
struct Board {
    running: Vec<Step>,
    next_id: usize,
    /// Lines on the terminal that belong to running steps.
    drawn: usize,
    frame: usize,
}

/// The display. Clones share it.
#[derive(Clone)]
pub(crate) struct Progress {
    board: Arc<Mutex<Board>>,
    terminal: bool,
    begun: Instant,
    ticker: Arc<Ticker>,
}

struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().ok().and_then(|mut thread| thread.take()) {
            // It draws only; if it panicked there is nothing to mend.
            let _ = thread.join();
        }
    }
}

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let board = Arc::new(Mutex::new(Board::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (board, stop) = (Arc::clone(&board), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(mut board) = board.lock() {
                        board.tick(terminal);
                    }
                    pause(Duration::from_millis(100));
                }
            }
        });
        let ticker = Arc::new(Ticker { stop, thread: Mutex::new(Some(thread)) });
        Self { board, terminal, begun: Instant::now(), ticker }
    }

    /// Seconds since the display began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Runs one step. Its outcome is shown, and its error carries the step's name.
    pub(crate) fn step<T>(&self, name: &str, work: impl FnOnce(&Said) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let started = Instant::now();
        let id = self.with(|board| {
            board.next_id += 1;
            let id = board.next_id;
            let (name, detail) = (name.to_owned(), String::new());
            board.running.push(Step { id, name, detail, started, reminded: started });
            id
        });
        let said = Said { progress: self.clone(), id };
        let outcome = work(&said);
        let seconds = started.elapsed().as_secs_f64();
        self.with(|board| {
            let index = board.running.iter().position(|step| step.id == id).expect("a step ends once");
            let step = board.running.remove(index);
            let (sign, text) = if outcome.is_ok() { ("✓", step.detail) } else { ("✗", "failed".to_owned()) };
            board.show(&format!("  {sign} {name:<20} {seconds:>6.1} s  {text}\n"), self.terminal);
        });
        outcome.map_err(|error| error.context(name.to_owned()))
    }

    /// A line that stays.
    pub(crate) fn note(&self, line: &str) {
        self.with(|board| board.show(&format!("{line}\n"), self.terminal));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        let _keeps_ticking = &self.ticker;
        change(&mut self.board.lock().expect("drawing does not panic"))
    }
}

/// Lets a running step say where it is.
pub(crate) struct Said {
    progress: Progress,
    id: usize,
}

impl Said {
    pub(crate) fn say(&self, detail: impl Into<String>) {
        self.progress.with(|board| {
            if let Some(step) = board.running.iter_mut().find(|step| step.id == self.id) {
                step.detail = detail.into();
            }
        });
    }
}

impl Board {
    fn tick(&mut self, terminal: bool) {
        self.frame += 1;
        let mut reminders = String::new();
        for step in self.running.iter_mut().filter(|step| !terminal && step.reminded.elapsed() > REMINDER) {
            step.reminded = Instant::now();
            let seconds = step.started.elapsed().as_secs_f64();
            reminders += &format!("    {:<20} {seconds:>6.0} s  {}\n", step.name, step.detail);
        }
        if terminal || !reminders.is_empty() {
            self.show(&reminders, terminal);
        }
    }

    /// Writes lines that stay, above the running steps, which are drawn anew; all in one piece, so that nothing flickers.
    fn show(&mut self, lines: &str, terminal: bool) {
        // Up one line, clear it: for each that was drawn.
        let mut text = "\x1b[1A\x1b[2K".repeat(self.drawn);
        text += lines;
        self.drawn = 0;
        if terminal {
            let spinner = SPINNER[self.frame / 2 % SPINNER.len()];
            for step in &self.running {
                let seconds = step.started.elapsed().as_secs_f64();
                let line = format!("  {spinner} {:<20} {seconds:>6.1} s  {}", step.name, step.detail);
                text.extend(line.chars().take(terminal_width() - 1));
                text.push('\n');
            }
            self.drawn = self.running.len();
        }
        // Nobody can be told that the terminal is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

fn terminal_width() -> usize {
    let columns = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { 100 } else { columns.max(40) }
}
