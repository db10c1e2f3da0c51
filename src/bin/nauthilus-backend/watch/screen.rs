//! `watch` on a terminal: the table, its keys, its size.

use std::io::{self, Write, stdout};
use std::time::{Duration, Instant};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{execute, queue};

use super::source::{Row, Source};
use super::table;
use crate::terminal::count_text;

/// The terminal in full-screen mode. Dropping this restores its former mode.
struct FullScreen;

impl FullScreen {
    fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        let screen = Self;
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        // Errors are ignored: they mean that the terminal is gone, so there is nowhere to report them.
        let _ = execute!(stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// The content of the screen.
struct View {
    rows: Vec<Row>,
    problem: Option<String>,
    name: String,
    top: usize,
    only_problems: bool,
    problems_first: bool,
}

/// Shows the table until a key ends it.
pub(super) fn run(source: &Source, interval: Duration) -> io::Result<()> {
    let mut view = View {
        rows: Vec::new(),
        problem: None,
        name: source.name(),
        top: 0,
        only_problems: false,
        problems_first: true,
    };
    let _screen = FullScreen::enter()?;
    loop {
        match source.read() {
            Ok(reading) => {
                view.rows = reading.rows;
                view.problem = reading.doubt;
            }
            // The rows that were read last stay on the screen.
            Err(problem) => view.problem = Some(problem),
        }
        view.draw()?;
        let next = Instant::now() + interval;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            if !poll(left)? {
                break;
            }
            if view.is_ended_by(&read()?) {
                return Ok(());
            }
            view.draw()?;
        }
    }
}

impl View {
    /// Handles a key; true where it ends the command.
    fn is_ended_by(&mut self, event: &Event) -> bool {
        let Event::Key(KeyEvent {
            code,
            modifiers,
            kind: KeyEventKind::Press,
            ..
        }) = event
        else {
            return false;
        };
        let page = usize::from(size().map_or(24, |(_, height)| height)).saturating_sub(4);
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('p') => self.only_problems = !self.only_problems,
            KeyCode::Char('s') => self.problems_first = !self.problems_first,
            KeyCode::Down | KeyCode::Char('j') => self.top += 1,
            KeyCode::Up | KeyCode::Char('k') => self.top = self.top.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.top += page,
            KeyCode::PageUp => self.top = self.top.saturating_sub(page),
            KeyCode::Home => self.top = 0,
            KeyCode::End => self.top = usize::MAX,
            _ => {}
        }
        false
    }

    fn draw(&mut self) -> io::Result<()> {
        let (width, height) = size()?;
        let (width, height) = (usize::from(width), usize::from(height));
        // The first two lines and the last one are not part of the table.
        let room = height.saturating_sub(3);
        let rows = table::sorted(&self.rows, self.problems_first);
        let rows: Vec<&Row> = rows
            .into_iter()
            .filter(|row| !self.only_problems || table::is_problem(row))
            .collect();
        self.top = self.top.min(rows.len().saturating_sub(room));
        let mut out = stdout().lock();
        let mut lines = vec![table::fitted(&self.title(), width), table::header(width)];
        let shown = rows.iter().skip(self.top).take(room);
        lines.extend(shown.map(|row| table::line(row, width, &table::toned_state)));
        lines.resize(height.saturating_sub(1), String::new());
        lines.push(self.footer(rows.len(), room, width));
        for (at, line) in lines.iter().take(height).enumerate() {
            let row = u16::try_from(at).unwrap_or(u16::MAX);
            queue!(out, MoveTo(0, row), Clear(ClearType::CurrentLine))?;
            out.write_all(line.as_bytes())?;
        }
        out.flush()
    }

    fn title(&self) -> String {
        let count = |verdict: &str| {
            self.rows
                .iter()
                .filter(|row| row.verdict == verdict)
                .count()
        };
        let (alive, dead) = (count("alive"), count("dead"));
        let targets = self.rows.iter().filter(|row| row.is_target()).count();
        let all = count_text(targets, "target");
        format!("{all}, {alive} alive, {dead} dead  {}", self.name)
    }

    fn footer(&self, rows: usize, room: usize, width: usize) -> String {
        if let Some(problem) = &self.problem {
            return table::fitted(problem, width);
        }
        let last = rows.min(self.top + room);
        let first = rows.min(self.top + 1);
        let keys = "q quit  up/down scroll  p problems  s sort";
        table::fitted(&format!("{first}-{last} of {rows}  {keys}"), width)
    }
}
