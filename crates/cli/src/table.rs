//! Tables that fit: columns as wide as their widest cell, the last one cut where the terminal ends.

/// Rows under a header.
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the header are dropped, missing ones are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().take(self.header.len()).map(|cell| clean(&cell)).collect();
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
    }

    /// The table as lines, at most `width` characters each when there is one. Trailing columns without any cell are
    /// left out.
    pub fn render(&self, width: Option<usize>) -> String {
        let columns = (0..self.header.len())
            .rev()
            .find(|column| *column == 0 || self.rows.iter().any(|row| !row[*column].is_empty()))
            .map_or(0, |last| last + 1);
        let header: Vec<String> = self.header.iter().map(ToString::to_string).collect();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().chain([&header]).map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            out.push_str(&cut(line.trim_end(), width));
            out.push('\n');
        }
        out
    }
}

/// A line, cut with a mark when it is longer than `width` characters.
pub fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if line.chars().count() > width => {
            line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
        }
        _ => line.to_owned(),
    }
}

/// Text of others without characters that move the cursor or colour the screen.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["INSTANCE", "NODE", "MESSAGE"]);
        table.row(["i-00000001".to_owned(), "fra-1".to_owned(), String::new()]);
        table.row(["i-2".to_owned(), "frankfurt-2".to_owned(), "exit code 1:\n\u{1b}[31mno such table".to_owned()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        expect![[r#"
            INSTANCE    NODE         MESSAGE
            i-00000001  fra-1
            i-2         frankfurt-2  exit code 1:  [31mno such table
        "#]]
        .assert_eq(&table().render(None));
    }

    #[test]
    fn lines_end_where_the_terminal_ends() {
        expect![[r#"
            INSTANCE    NODE         MESSAGE
            i-00000001  fra-1
            i-2         frankfurt-2  exit code 1:  …
        "#]]
        .assert_eq(&table().render(Some(40)));
        expect![[r#"
            …
            …
            …
        "#]]
        .assert_eq(&table().render(Some(1)));
    }

    #[test]
    fn an_empty_last_column_is_left_out() {
        let mut table = Table::new(&["A", "B", "MESSAGE"]);
        table.row(["1".to_owned()]);
        expect![[r#"
            A
            1
        "#]]
        .assert_eq(&table.render(None));
    }
}
