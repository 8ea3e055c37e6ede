//! A page of tables, with a search form, a chart and a pager where they are of use.

use askama::Template;
use bytes::Bytes;
use http::{Response, StatusCode};

use crate::npm::PackageName;
use crate::server::pages::frame::{Frame, Pager, escaped, name_path};
use crate::server::pages::render::render;

#[derive(Template)]
#[template(path = "list.html")]
pub(super) struct ListPage {
    pub(super) frame: Frame,
    pub(super) search: Option<SearchField>,
    pub(super) notes: Vec<String>,
    pub(super) chart: Option<BarChart>,
    pub(super) tables: Vec<ListTable>,
    pub(super) pager: Pager,
}

pub(super) struct SearchField {
    pub(super) label: &'static str,
    pub(super) value: String,
}

pub(super) struct ListTable {
    pub(super) caption: String,
    pub(super) columns: &'static [&'static str],
    pub(super) rows: Vec<Vec<Cell>>,
    /// What the page says if there are no rows.
    pub(super) empty: &'static str,
}

pub(super) struct Cell {
    pub(super) text: String,
    /// A path below the pages.
    pub(super) link: Option<String>,
    pub(super) class: &'static str,
}

pub(super) struct BarChart {
    pub(super) label: String,
    pub(super) bars: Vec<Bar>,
}

pub(super) struct Bar {
    x: usize,
    y: u64,
    width: usize,
    height: u64,
    text: String,
    title: String,
}

/// The height of the longest bar, and where all bars begin.
const BAR_HEIGHT: u64 = 150;
const BAR_BASE: u64 = 170;

impl ListPage {
    pub(super) fn new(frame: Frame, tables: Vec<ListTable>) -> Self {
        Self { frame, search: None, notes: Vec::new(), chart: None, tables, pager: Pager::default() }
    }

    pub(super) fn response(&self) -> Response<Bytes> {
        render(StatusCode::OK, self)
    }
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), link: None, class: "" }
    }

    pub(super) fn number(number: u64) -> Self {
        Self { text: number.to_string(), link: None, class: "number" }
    }

    /// Returns a cell that links to the page of a package, if `name` is a valid name.
    pub(super) fn package(name: &str) -> Self {
        let link = PackageName::parse(name).ok().map(|name| format!("packages/{}", name_path(&name)));
        Self { text: name.to_owned(), link, class: "" }
    }

    /// Returns a cell that links to the page of a version.
    pub(super) fn version(name: &str, version: &str) -> Self {
        let link = PackageName::parse(name).ok().map(|name| format!("explain/{}@{}", name_path(&name), escaped(version)));
        Self { text: version.to_owned(), link, class: "" }
    }
}

impl BarChart {
    /// Draws one bar per entry: a short text below it, a title and a number.
    pub(super) fn new(label: String, entries: &[(String, String, u64)]) -> Self {
        let highest = entries.iter().map(|(_, _, number)| *number).max().unwrap_or_default().max(1);
        let step = 1_000 / entries.len().max(1);
        let bars = entries.iter().enumerate().map(|(at, (text, title, number))| {
            let height = number.saturating_mul(BAR_HEIGHT) / highest;
            let (x, y) = (at * step, BAR_BASE - height.min(BAR_HEIGHT));
            Bar { x, y, width: step.saturating_sub(8).max(1), height, text: text.clone(), title: format!("{title}: {number}") }
        });
        Self { label, bars: bars.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion_and_fit() {
        let entry = |number| ("d".to_owned(), "day".to_owned(), number);
        let chart = BarChart::new("x".to_owned(), &[entry(0), entry(50), entry(100)]);
        let heights: Vec<_> = chart.bars.iter().map(|bar| bar.height).collect();
        assert_eq!(heights, [0, 75, 150]);
        assert!(chart.bars.iter().all(|bar| bar.x + bar.width <= 1_000 && bar.y + bar.height == BAR_BASE));
        let huge = BarChart::new("x".to_owned(), &[entry(u64::MAX), entry(1)]);
        assert!(huge.bars.iter().all(|bar| bar.height <= BAR_HEIGHT));
        assert!(BarChart::new("x".to_owned(), &[]).bars.is_empty());
    }
}
