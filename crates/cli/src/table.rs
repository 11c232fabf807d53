//! Tables that fit: columns as wide as their widest cell, the last one cut where the terminal ends.

/// As much of the last column is shown before others go, in characters.
const LAST_MIN: usize = 32;
/// Least room in which the last column is worth breaking into lines, in characters.
const WRAPPED_MIN: usize = 16;
/// What is between two columns.
const GAP: &str = "  ";

/// Rows under a header.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns that go first where the terminal is narrow, in this order.
    expendable: &'static [&'static str],
    /// Whether the last column goes on in further lines instead of being cut.
    is_wrapped: bool,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
            expendable: &[],
            is_wrapped: false,
        }
    }

    /// Says which columns are left out, one after the other, until the others fit.
    #[must_use]
    pub fn expendable(self, columns: &'static [&'static str]) -> Self {
        Self { expendable: columns, ..self }
    }

    /// Lets the last column, which holds sentences, go on in further lines where the terminal ends.
    #[must_use]
    pub fn wrapped(self) -> Self {
        Self { is_wrapped: true, ..self }
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
        let header = &self.header;
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().chain([header]).map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let kept = self.kept(&widths, width);
        let mut out = String::new();
        for row in std::iter::once(header).chain(&self.rows) {
            out.push_str(&self.lines(row, (&kept, &widths), width));
        }
        out
    }

    /// A row as it is shown.
    fn lines(&self, row: &[String], (kept, widths): (&[usize], &[usize]), width: Option<usize>) -> String {
        let Some((last, others)) = kept.split_last() else { return "\n".to_owned() };
        let others: String =
            others.iter().map(|column| format!("{:<1$}{GAP}", row[*column], widths[*column])).collect();
        let begins = others.chars().count();
        let room =
            width.map(|width| width.saturating_sub(begins)).filter(|room| self.is_wrapped && *room >= WRAPPED_MIN);
        let last = wrap(&row[*last], room).replace('\n', &format!("\n{:begins$}", ""));
        (others + &last).split('\n').map(|line| cut(line.trim_end(), width) + "\n").collect()
    }

    /// The columns that are shown.
    fn kept(&self, widths: &[usize], width: Option<usize>) -> Vec<usize> {
        let mut kept: Vec<usize> = (0..widths.len()).collect();
        // The last one may be a sentence: it may be cut before a whole column goes for it, as long as it can be understood.
        let needed = |kept: &[usize]| {
            let last = kept.last().copied();
            let width = |column: &usize| match last == Some(*column) {
                true => widths[*column].min(LAST_MIN),
                false => widths[*column],
            };
            kept.iter().map(|column| width(column) + GAP.len()).sum::<usize>()
        };
        for name in self.expendable {
            if width.is_none_or(|width| needed(&kept).saturating_sub(GAP.len()) <= width) {
                break;
            }
            kept.retain(|column| self.header[*column] != *name);
        }
        kept
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

/// Lines broken between words where a terminal ends; what goes on is two characters further to the right than its line began. Words that
/// are longer than a line stay whole: they may be there to be copied.
pub fn wrap(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let mut out: Vec<String> = Vec::new();
    for line in text.split('\n') {
        let indent = line.chars().take_while(|c| *c == ' ').count();
        let further = " ".repeat(indent + 2);
        let mut now = String::new();
        for (number, word) in line[indent..].split(' ').enumerate() {
            let is_full = now.chars().count() + 1 + word.chars().count() > width;
            match number {
                0 => now = format!("{}{word}", " ".repeat(indent)),
                _ if is_full => out.push(std::mem::replace(&mut now, format!("{further}{word}"))),
                _ => now.push_str(&format!(" {word}")),
            }
        }
        out.push(now);
    }
    out.join("\n")
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
    fn sentences_go_on_in_further_lines_where_they_shall() {
        expect![[r#"
            INSTANCE    NODE         MESSAGE
            i-00000001  fra-1
            i-2         frankfurt-2  exit code 1:
                                       [31mno such table
        "#]]
        .assert_eq(&table().wrapped().render(Some(44)));
        assert_eq!(table().wrapped().render(Some(30)), table().render(Some(30)), "no room to break anything");
        assert_eq!(table().wrapped().render(None), table().render(None));
    }

    #[test]
    fn where_it_is_narrow_what_is_expendable_is_left_out_first() {
        let table = || table().expendable(&["NODE", "INSTANCE"]);
        assert!(table().render(Some(80)).starts_with("INSTANCE    NODE"));
        expect![[r#"
            INSTANCE    MESSAGE
            i-00000001
            i-2         exit code 1:  [31mno such table
        "#]]
        .assert_eq(&table().render(Some(45)));
        assert!(table().render(Some(36)).starts_with("MESSAGE\n"), "only as much as needed");
        assert!(table().render(Some(10)).contains("exit code…"), "and then it is cut");
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        let text = "error: there is no such app\n  `insula apps` lists what there is, and  more\n\nend\n";
        assert_eq!(wrap(text, None), text);
        assert_eq!(wrap(text, Some(80)), text);
        expect![[r#"
            error: there is
              no such app
              `insula apps`
                lists what
                there is, and
                 more

            end
        "#]]
        .assert_eq(&wrap(text, Some(17)));
        assert_eq!(wrap("https://example.com/a/long/path", Some(5)), "https://example.com/a/long/path");
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
