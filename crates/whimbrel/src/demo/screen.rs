use std::{
    cell::RefCell,
    env,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use console::{Style, Term};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What the user sees: on a terminal colours and a bar that moves, elsewhere plain lines that a log can keep.
#[derive(Debug)]
pub(super) struct Screen {
    fancy: bool,
    bar: RefCell<Option<Bar>>,
}

/// The one thing that is under way.
#[derive(Debug)]
struct Bar {
    /// What draws it; not there in plain output.
    drawn: Option<ProgressBar>,
    what: String,
    /// When plain output last said something about it.
    said: Instant,
}

/// Steps of a bar: fine enough to move smoothly.
const STEPS: u64 = 1000;
/// How often plain output says how far something is.
const SAY_EVERY: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);
/// Columns where there is no terminal.
const PLAIN_WIDTH: u16 = 120;

impl Screen {
    /// Plain if the user says so, with NO_COLOR (<https://no-color.org>), and where no terminal is.
    pub(super) fn new(plain: bool) -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let fancy = !plain && !no_color && !dumb && io::stdout().is_terminal();
        Self { fancy, bar: RefCell::new(None) }
    }

    /// A line that the user keeps.
    pub(super) fn say(&self, line: &str) {
        match self.bar.borrow().as_ref().and_then(|bar| bar.drawn.as_ref()) {
            Some(bar) => bar.println(line),
            None => {
                // A reader that has gone has seen enough; what is to be cleaned up is cleaned up all the same.
                let _ = writeln!(io::stdout().lock(), "{line}");
            }
        }
    }

    pub(super) fn title(&self, text: &str) {
        self.say(&format!("{} {text}", self.paint("Whimbrel demo:", Style::new().bold().cyan())));
    }

    pub(super) fn fact(&self, name: &str, text: &str) {
        self.say(&format!("  {}  {text}", self.dim(&format!("{name:<7}"))));
    }

    /// The beginning of a part.
    pub(super) fn part(&self, text: &str) {
        self.say(&format!("\n{}", self.bold(text)));
    }

    /// Why something was done, below what was done.
    pub(super) fn remark(&self, text: &str) {
        let indent = "            ";
        for (index, line) in wrap(text, self.width() - indent.len() - 2).into_iter().enumerate() {
            let lead = if index == 0 { "→ " } else { "  " };
            self.say(&format!("{indent}{}", self.dim(&format!("{lead}{line}"))));
        }
    }

    pub(super) fn done(&self, text: &str) {
        self.say(&format!("  {} {text}", self.paint("✓", Style::new().green().bold())));
    }

    pub(super) fn failed(&self, text: &str) {
        self.say(&format!("  {} {text}", self.paint("✗", Style::new().red().bold())));
    }

    /// Something begins whose end can be foretold. `what` stands before the bar.
    pub(super) fn begin_bar(&self, what: &str) {
        let drawn = self.fancy.then(|| {
            let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stdout());
            bar.set_style(bar_style());
            bar.set_prefix(what.to_owned());
            bar.enable_steady_tick(TICK);
            bar
        });
        self.end_bar();
        *self.bar.borrow_mut() = Some(Bar { drawn, what: what.to_owned(), said: Instant::now() });
    }

    /// How far it is, 0 to 1, and what is to be said about it.
    pub(super) fn move_bar(&self, fraction: f64, message: &str) {
        let mut bar = self.bar.borrow_mut();
        let Some(bar) = bar.as_mut() else { return };
        if let Some(drawn) = &bar.drawn {
            drawn.set_position((fraction.clamp(0.0, 1.0) * STEPS as f64) as u64);
            drawn.set_message(message.to_owned());
        } else if bar.said.elapsed() >= SAY_EVERY {
            bar.said = Instant::now();
            let _ = writeln!(io::stdout().lock(), "  {}: {message}", bar.what);
        }
    }

    /// It is over, and its bar disappears.
    pub(super) fn end_bar(&self) {
        if let Some(drawn) = self.bar.borrow_mut().take().and_then(|bar| bar.drawn) {
            drawn.finish_and_clear();
        }
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.paint(text, Style::new().bold())
    }

    pub(super) fn dim(&self, text: &str) -> String {
        self.paint(text, Style::new().dim())
    }

    /// The figure that all this is about.
    pub(super) fn highlight(&self, text: &str) -> String {
        self.paint(text, Style::new().bold().yellow())
    }

    pub(super) fn good(&self, text: &str) -> String {
        self.paint(text, Style::new().bold().green())
    }

    pub(super) fn bad(&self, text: &str) -> String {
        self.paint(text, Style::new().bold().red())
    }

    /// Columns of a line: those of the terminal, if it has a sensible number of them.
    fn width(&self) -> usize {
        let columns = if self.fancy { Term::stdout().size().1 } else { PLAIN_WIDTH };
        usize::from(columns.clamp(60, 160))
    }

    fn paint(&self, text: &str, paint: Style) -> String {
        if self.fancy { paint.force_styling(true).apply_to(text).to_string() } else { text.to_owned() }
    }
}

/// Lines of at most `width` characters, broken between words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a first line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner:.cyan} {prefix:.bold} {bar:36.cyan/black.bright} {wide_msg}")
        .expect("the template above is correct")
        .progress_chars("━╸─")
        .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
        assert_eq!(wrap("longer than that", 4), ["longer", "than", "that"]);
        assert_eq!(wrap("73.7 ms ≤ 300 ms", 9), ["73.7 ms ≤", "300 ms"]);
        assert_eq!(wrap("", 9), [""]);
    }
}
