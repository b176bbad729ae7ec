//! Whimbrel one way and another in turns, in one table.

use comfy_table::{CellAlignment, Table, presets};
use comparison::spread;

use super::{
    summary::{Unit, shown},
    trial::Sample,
};

/// What is shown of samples.
pub(super) type Figure = (&'static str, Unit, fn(&Sample) -> Option<f64>);

/// Samples of both ways.
pub(super) type Pair<'a> = [&'a [Sample]; 2];

/// How many times what the first way takes the second does, by medians.
pub(super) fn ratio([first, second]: Pair<'_>, (_, _, of): Figure) -> Option<f64> {
    Some(spread(second, of)?.median / spread(first, of)?.median)
}

/// Whether no guest found a fault.
pub(super) fn are_intact<'a>(pairs: impl IntoIterator<Item = Pair<'a>>) -> bool {
    pairs.into_iter().flatten().flatten().all(|sample| sample.complaints.is_empty())
}

/// Prints `figures` of all rows, each with its name. `digits` of a ratio stand behind its point.
pub(super) fn print<'a>(
    names: [&str; 2],
    rows: impl IntoIterator<Item = (String, Pair<'a>)>,
    figures: &[Figure],
    digits: usize,
) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["median (least – most)", names[0], names[1], "ratio"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (row, pair) in rows {
        table.add_row([row]);
        for &figure in figures {
            let (name, unit, of) = figure;
            let [first, second] = pair.map(|samples| shown(spread(samples, of), unit));
            let ratio = ratio(pair, figure).map_or_else(String::new, |ratio| format!("{ratio:.digits$}"));
            table.add_row([format!("  {name}"), first, second, ratio]);
        }
    }
    output::say!("\n{table}");
}
