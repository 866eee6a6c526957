//! Functions known at points: reading them from a table, and between the points.

/// Why a table of measured times cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {problem}")]
pub struct TableError {
    /// Line in the file, from 1; the last one if something is missing.
    pub line: u64,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl TableError {
    fn new(line: u64, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }
}

/// A function known at ascending points, at least two.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Curve {
    pub(crate) xs: Vec<f64>,
    pub(crate) ys: Vec<f64>,
}

/// A function of two arguments, known on a grid: `rows[i]` is the curve over y at `xs[i]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grid {
    pub(crate) xs: Vec<f64>,
    pub(crate) rows: Vec<Curve>,
}

/// The pair of points to interpolate `x` from, and the weight of the second:
/// outside 0 to 1 beyond the ends.
fn bracket(xs: &[f64], x: f64) -> (usize, f64) {
    let low = xs.partition_point(|&point| point <= x).clamp(1, xs.len() - 1) - 1;
    (low, (x - xs[low]) / (xs[low + 1] - xs[low]))
}

impl Curve {
    /// The values of a function at these points.
    pub(crate) fn through(xs: &[f64], value: impl Fn(f64) -> f64) -> Self {
        Self { xs: xs.to_vec(), ys: xs.iter().map(|&x| value(x)).collect() }
    }

    /// All values multiplied.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        Self { ys: self.ys.into_iter().map(|y| y * factor).collect(), ..self }
    }

    /// The same points with other values.
    pub(crate) fn map(&self, value: impl Fn(f64, f64) -> f64) -> Self {
        let ys = self.xs.iter().zip(&self.ys).map(|(&x, &y)| value(x, y)).collect();
        Self { xs: self.xs.clone(), ys }
    }

    /// The second derivative of the parabola through the last three points, at least 0.
    pub(crate) fn bend(&self) -> f64 {
        let [.., x1, x2, x3] = self.xs[..] else { return 0.0 };
        let [.., y1, y2, y3] = self.ys[..] else { return 0.0 };
        (2.0 * ((y3 - y2) / (x3 - x2) - (y2 - y1) / (x2 - x1)) / (x3 - x1)).max(0.0)
    }

    /// Linear between the points, and on beyond the last two.
    pub(crate) fn at(&self, x: f64) -> f64 {
        let (low, weight) = bracket(&self.xs, x);
        self.ys[low] + (self.ys[low + 1] - self.ys[low]) * weight
    }

    /// Linear between the points, constant beyond.
    pub(crate) fn at_clamped(&self, x: f64) -> f64 {
        self.at(x.clamp(self.xs[0], self.xs[self.xs.len() - 1]))
    }
}

impl Grid {
    /// The values of a function on a grid.
    pub(crate) fn of(xs: &[f64], ys: &[f64], value: impl Fn(f64, f64) -> f64) -> Self {
        let rows = xs.iter().map(|&x| Curve::through(ys, |y| value(x, y))).collect();
        Self { xs: xs.to_vec(), rows }
    }

    /// The same grid with other values.
    pub(crate) fn map(&self, value: impl Fn(f64, f64, f64) -> f64) -> Self {
        let rows = self.xs.iter().zip(&self.rows);
        let rows = rows.map(|(&x, row)| row.map(|y, old| value(x, y, old)));
        Self { xs: self.xs.clone(), rows: rows.collect() }
    }

    pub(crate) fn at(&self, x: f64, y: f64) -> f64 {
        let (low, weight) = bracket(&self.xs, x);
        let (a, b) = (self.rows[low].at(y), self.rows[low + 1].at(y));
        a + (b - a) * weight
    }

    /// No row falls: where measurements do, by noise, the larger value is kept.
    pub(crate) fn ascending(mut self) -> Self {
        for row in &mut self.rows {
            for i in 1..row.ys.len() {
                row.ys[i] = row.ys[i].max(row.ys[i - 1]);
            }
        }
        self
    }

    /// The first row, and the mean slope from it to each other row.
    pub(crate) fn split_fixed(self) -> (Curve, Self) {
        let mut rows = self.rows.into_iter();
        let fixed = rows.next().expect("a grid has rows");
        let first_x = self.xs[0];
        let mut rates: Vec<Curve> = rows
            .zip(&self.xs[1..])
            .map(|(mut row, x)| {
                for (y, first) in row.ys.iter_mut().zip(&fixed.ys) {
                    *y = (*y - first) / (x - first_x);
                }
                row
            })
            .collect();
        rates.insert(0, rates[0].clone());
        (fixed, Self { xs: self.xs, rows: rates })
    }
}

/// The rows of a file, in order.
pub(crate) struct Points {
    rows: Vec<(String, f64, f64, f64)>,
    last_line: u64,
}

const COMPONENTS: [&str; 6] = ["gemm", "logits", "elem", "comm", "ctx_attn", "gen_attn"];

impl Points {
    /// Reads `component,x,y,ms`; lines that begin with `#` are comments.
    pub(crate) fn parse(text: &str) -> Result<Self, TableError> {
        let mut reader = csv::ReaderBuilder::new()
            .comment(Some(b'#'))
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let line = |position: Option<&csv::Position>| position.map_or(1, csv::Position::line);
        let header =
            reader.headers().map_err(|e| TableError::new(line(e.position()), e.to_string()))?;
        if header != vec!["component", "x", "y", "ms"] {
            return Err(TableError::new(1, "the columns must be component,x,y,ms"));
        }
        let mut points = Self { rows: Vec::new(), last_line: 1 };
        for record in reader.records() {
            let record = record.map_err(|e| TableError::new(line(e.position()), e.to_string()))?;
            points.last_line = line(record.position());
            let error = |problem: String| TableError::new(points.last_line, problem);
            if !COMPONENTS.contains(&&record[0]) {
                return Err(error(format!(
                    "component {:?}: must be one of {}",
                    &record[0],
                    COMPONENTS.join(", ")
                )));
            }
            let number = |column: usize, name: &str| {
                record[column]
                    .parse::<f64>()
                    .ok()
                    .filter(|v| v.is_finite() && *v >= 0.0)
                    .ok_or_else(|| {
                        error(format!(
                            "{name} {:?}: must be a number of at least 0",
                            &record[column]
                        ))
                    })
            };
            let row = (record[0].to_owned(), number(1, "x")?, number(2, "y")?, number(3, "ms")?);
            points.rows.push(row);
        }
        Ok(points)
    }

    fn missing(&self, problem: String) -> TableError {
        TableError::new(self.last_line, problem)
    }

    /// Points of a component that has no y, in ascending order.
    pub(crate) fn line(&self, component: &str) -> Result<Vec<(f64, f64)>, TableError> {
        let mut points: Vec<_> =
            self.rows.iter().filter(|row| row.0 == component).map(|row| (row.1, row.3)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        match points.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => {
                Err(self.missing(format!("{component} has two points at x = {}", pair[0].0)))
            }
            None => Ok(points),
        }
    }

    /// `points` as a curve, if there are two.
    pub(crate) fn curve(
        &self,
        component: &str,
        points: impl Iterator<Item = (f64, f64)>,
    ) -> Result<Curve, TableError> {
        let (xs, ys): (Vec<f64>, Vec<f64>) = points.unzip();
        if xs.len() < 2 {
            return Err(self.missing(format!("{component} has {} points: needs 2", xs.len())));
        }
        Ok(Curve { xs, ys })
    }

    /// All points of a component that has x and y.
    pub(crate) fn grid(&self, component: &str) -> Result<Grid, TableError> {
        let mut rows: Vec<_> = self.rows.iter().filter(|row| row.0 == component).collect();
        rows.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.2.total_cmp(&b.2)));
        let mut grid = Grid { xs: Vec::new(), rows: Vec::new() };
        for group in rows.chunk_by(|a, b| a.1 == b.1) {
            let curve = self.curve(component, group.iter().map(|row| (row.2, row.3)))?;
            if curve.xs.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(
                    self.missing(format!("{component} has a point twice at x = {}", group[0].1))
                );
            }
            if grid.rows.first().is_some_and(|first: &Curve| first.xs != curve.xs) {
                return Err(self.missing(format!(
                    "{component} at x = {} has other y than at x = {}: needs a full grid",
                    group[0].1, grid.xs[0]
                )));
            }
            grid.xs.push(group[0].1);
            grid.rows.push(curve);
        }
        // Prompt attention loses one x to its fixed part.
        let least = if component == "ctx_attn" { 3 } else { 2 };
        if grid.xs.len() < least || grid.xs[0] <= 0.0 {
            return Err(self.missing(format!("{component} needs {least} different x above 0")));
        }
        Ok(grid)
    }
}
