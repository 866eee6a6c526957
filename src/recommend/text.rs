//! A recommendation as text: for a terminal, and as Markdown.

use super::answer::{Choice, Neighbour, Recommendation, Simulations};
use super::prices::{GPU_HOURS, WORKER_HOURS};
use super::reading::{Reading, Verdict};
use crate::metrics::{Metric, short, signed};
use crate::report::render::columns::{Column, markdown, table, wrap};
use comfy_table::CellAlignment;
use std::fmt::Write;

/// How the [effect](Recommendation::effect) of a recommendation begins.
pub const RECOMMENDED: &str = "Recommended by sim";

/// A heading with its table.
struct Titled {
    title: String,
    columns: Vec<Column>,
}

impl Recommendation {
    /// What has to be known, in sentences and tables, for a terminal `width` columns wide.
    pub fn report(&self, width: usize) -> String {
        let mut text = format!("{}\n\n", self.head());
        for sentence in self.sentences() {
            text.push_str(&wrap(&sentence, width));
        }
        for Titled { title, columns } in self.tables() {
            let _ = write!(text, "\n{title}\n{}\n", table(&columns.iter().collect::<Vec<_>>()));
        }
        for (title, lines) in self.lists() {
            let _ = writeln!(text, "\n{title}");
            for line in lines {
                text.push_str(&wrap(&format!("* {line}"), width));
            }
        }
        let _ = write!(text, "\n{}", wrap(&self.effort(), width));
        if !self.change.is_empty() {
            text.push_str("\nThe change:\n");
            for line in self.changes() {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }

    /// The same as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.head());
        for sentence in self.sentences() {
            let _ = writeln!(text, "{sentence}\n");
        }
        for Titled { title, columns } in self.tables() {
            let _ = writeln!(text, "## {title}\n\n{}\n", markdown(&columns));
        }
        for (title, lines) in self.lists() {
            let _ = writeln!(text, "## {title}\n");
            for line in lines {
                let _ = writeln!(text, "* {line}");
            }
            text.push('\n');
        }
        let _ = writeln!(text, "{}", self.effort());
        if !self.change.is_empty() {
            let _ = writeln!(text, "\n## The change\n\n```");
            for line in self.changes() {
                let _ = writeln!(text, "{line}");
            }
            text.push_str("```\n");
        }
        text
    }

    /// What to set, as `KEY=VALUE`.
    pub fn changes(&self) -> Vec<String> {
        let value = |value: &serde_json::Value| match value.as_str() {
            Some(text) => text.to_owned(),
            None => {
                toml::Value::try_from(value).map_or_else(|_| value.to_string(), |v| v.to_string())
            }
        };
        self.change.iter().map(|(key, set)| format!("{key}={}", value(set))).collect()
    }

    /// What the recommended change is predicted to do, and what that rests on, in lines of
    /// about 100 columns; `None` if nothing is recommended.
    pub fn effect(&self) -> Option<String> {
        const WIDTH: usize = 98;
        let winner = self.winner.as_ref()?;
        let (key, load) = self.load.as_ref().map_or(("", 0.0), |(key, load)| (key, *load));
        let load = match key.rsplit('.').next().unwrap_or(key) {
            "" => String::new(),
            key => format!(" at {key} {load}"),
        };
        let targets: Vec<String> = self.targets.iter().map(ToString::to_string).collect();
        let mut lines = vec![
            format!("{RECOMMENDED} {}{load}: {}", self.version, winner.name),
            format!(
                "predicted: {}, with a target of {}; {}",
                self.all_readings(winner),
                targets.join(" and "),
                self.bill(winner)
            ),
        ];
        if let Some(now) = &self.now {
            lines.push(format!(
                "as it is now: {}: {}; {}",
                now.choice.name,
                self.all_readings(&now.choice),
                self.bill(&now.choice)
            ));
            lines.extend(self.less(now));
        }
        lines.extend(self.rests_on.iter().map(|line| format!("rests on: {line}")));
        Some(lines.iter().map(|line| wrap(line, WIDTH)).collect())
    }

    /// By how much the winner differs from what there is.
    fn less(&self, now: &Neighbour) -> Option<String> {
        let metric = Metric::of(&now.metric);
        let (mean, interval) = now.difference?;
        let shown = |value: f64| signed(metric.shown(-value));
        let interval = interval.map_or(String::new(), |[low, high]| {
            format!(" ({} over seeds: {} to {})", percent(self.confidence), shown(high), shown(low))
        });
        let cost = match self.unit.as_str() {
            GPU_HOURS => "GPUs".to_owned(),
            WORKER_HOURS => "workers".to_owned(),
            currency => format!("{currency} an hour"),
        };
        let cost = match now.extra_cost {
            0.0 => "at the same cost".to_owned(),
            extra => format!("{} {cost}", signed(-extra)),
        };
        Some(format!(
            "the change: {} {} {}{interval}, paired by seed; {cost}",
            metric.label,
            shown(mean),
            metric.unit,
        ))
    }

    fn head(&self) -> String {
        let targets: Vec<String> = self.targets.iter().map(ToString::to_string).collect();
        let load = self.load.as_ref().map_or(String::new(), |(key, load)| {
            format!(" at {} {load}", key.rsplit('.').next().unwrap_or(key))
        });
        format!(
            "{}: the cheapest of {} candidates with {}{load}; sim {}",
            self.experiment,
            self.candidates,
            targets.join(" and "),
            self.version
        )
    }

    fn sentences(&self) -> Vec<String> {
        let mut all = Vec::new();
        let sure = percent(self.confidence);
        match &self.winner {
            Some(winner) => {
                let from = self.prices_from.as_ref();
                let from = from.map_or(String::new(), |from| format!(" (prices: {from})"));
                all.push(format!(
                    "Recommended: {}, {}{from}. {}; meets the targets with {sure} confidence.",
                    winner.name,
                    self.bill(winner),
                    self.all_readings(winner),
                ));
                all.extend(self.tokens(winner));
            }
            None => {
                let nearest = self.nearest.as_ref();
                let nearest = nearest.map_or(String::new(), |nearest| {
                    format!(
                        " The nearest is {}, {}: {}.",
                        nearest.name,
                        self.bill(nearest),
                        self.all_readings(nearest)
                    )
                });
                all.push(format!(
                    "None of the {} candidates meets the targets with {sure} confidence.{nearest}",
                    self.candidates
                ));
            }
        }
        if let Some(by_seeds) = &self.by_seeds {
            all.push(format!(
                "If the model were exact, {} would do, {}: {}, by the spread over seeds alone.",
                by_seeds.name,
                self.bill(by_seeds),
                readings(by_seeds, |reading| {
                    let between = |[low, high]: [String; 2]| format!("between {low} and {high}");
                    reading.by_seeds.map(|bounds| between(shown(reading, bounds)))
                }),
            ));
        }
        if let Some(now) = &self.now {
            all.push(format!(
                "As it is now, {}: {}; {}.",
                now.choice.name,
                self.all_readings(&now.choice),
                self.bill(&now.choice)
            ));
        }
        if let Some(more) = &self.more_load {
            let verdict = match more.winner.verdict {
                Verdict::Meets => "still meets the targets",
                Verdict::Unsure => "may miss the targets",
                Verdict::Misses => "misses the targets",
            };
            let instead = match (&more.instead, more.winner.verdict) {
                (_, Verdict::Meets) => String::new(),
                (Some(instead), _) => {
                    format!(" Then {} is needed, {}.", instead.name, self.bill(instead))
                }
                (None, _) => {
                    " No fleet in the sweep is large enough with these settings then.".into()
                }
            };
            all.push(format!(
                "At a load of {} it {verdict}: {}.{instead}",
                more.load,
                self.all_readings(&more.winner)
            ));
        }
        all
    }

    /// What tokens cost.
    fn tokens(&self, choice: &Choice) -> Option<String> {
        let per_million = choice.per_million_tokens?;
        let power = match choice.tokens_per_watt_hour {
            Some(tokens) => format!("{} tokens per watt-hour", short(tokens)),
            None => "tokens per watt-hour are unknown: no power is given for its GPUs".to_owned(),
        };
        let gpus: u32 = choice.cost.gpus.values().sum();
        let hours = choice.output_tokens_per_s.filter(|_| gpus > 0 && !self.counts_hours());
        let hours = hours.map_or(String::new(), |tokens| {
            format!(" ({} GPU hours)", short(f64::from(gpus) / (tokens * 3_600.0) * 1e6))
        });
        Some(format!("A million output tokens cost {}{hours}; {power}.", self.money(per_million)))
    }

    fn all_readings(&self, choice: &Choice) -> String {
        if choice.readings.is_empty() {
            return format!("nothing was served ({})", choice.state);
        }
        let mut sure = format!("{}: ", percent(self.confidence));
        readings(choice, |reading| {
            let [low, high] = shown(reading, reading.interval);
            // Of several the first says how sure they are.
            Some(format!("{}{low} to {high}", std::mem::take(&mut sure)))
        })
    }

    fn tables(&self) -> Vec<Titled> {
        let mut tables = Vec::new();
        if self.frontier.len() > 1 {
            let rows: Vec<&Choice> = self.frontier.iter().collect();
            let title = "What more money buys: the best candidate tried at each cost".to_owned();
            tables.push(Titled { title, columns: self.columns(&rows) });
        }
        if !self.alternatives.is_empty() {
            let rows: Vec<&Choice> = self.alternatives.iter().map(|a| &a.choice).collect();
            let mut columns = self.columns(&rows);
            let words = self.alternatives.iter().map(|alternative| {
                let word = if alternative.never { "no fleet does" } else { "" };
                word.to_owned()
            });
            let mut notes = Column::new(vec![String::new()], words.collect());
            notes.alignment = CellAlignment::Left;
            columns.push(notes);
            let title =
                "Alternatives: the cheapest fleet that meets the targets with other settings"
                    .to_owned();
            tables.push(Titled { title, columns });
        }
        if !self.neighbours.is_empty() {
            tables.push(self.why_not());
        }
        tables
    }

    /// Why not the neighbours.
    fn why_not(&self) -> Titled {
        let rows: Vec<&Choice> = self.neighbours.iter().map(|n| &n.choice).collect();
        let mut columns = self.columns(&rows);
        let why = |neighbour: &Neighbour| {
            let metric = Metric::of(&neighbour.metric);
            let (mean, interval) = neighbour.difference?;
            let shown = |value: f64| signed(metric.shown(value));
            let interval = interval.map_or(String::new(), |[low, high]| {
                format!(" ({} to {})", shown(low), shown(high))
            });
            Some(format!("{}{interval}", shown(mean)))
        };
        let metric = self.neighbours.first().map(|n| Metric::of(&n.metric).with_unit());
        let texts = self.neighbours.iter().map(|n| why(n).unwrap_or_default()).collect();
        let head = vec![metric.unwrap_or_default(), "against the winner".to_owned()];
        columns.push(Column::new(head, texts));
        let costs = self.neighbours.iter().map(|n| signed(n.extra_cost));
        columns
            .push(Column::new(vec!["extra cost".to_owned(), self.unit.clone()], costs.collect()));
        let title = "Why not the neighbours: one step away, over all seeds".to_owned();
        Titled { title, columns }
    }

    /// Columns that every table has.
    fn columns(&self, rows: &[&Choice]) -> Vec<Column> {
        let mut names = Column::new(
            vec!["setting".to_owned()],
            rows.iter().map(|choice| choice.name.clone()).collect(),
        );
        names.alignment = CellAlignment::Left;
        let costs = rows.iter().map(|choice| short(choice.cost.per_hour)).collect();
        let head = match self.unit.as_str() {
            GPU_HOURS => vec!["GPUs".to_owned()],
            WORKER_HOURS => vec!["workers".to_owned()],
            currency => vec![currency.to_owned(), "an hour".to_owned()],
        };
        let mut columns = vec![names, Column::new(head, costs)];
        for target in &self.targets {
            let metric = Metric::of(&target.metric);
            let cell = |choice: &&Choice| {
                let found = choice.readings.iter().find(|r| r.metric == target.metric);
                found.map_or_else(|| "-".to_owned(), |r| value(r, Some(r.interval)))
            };
            let cells = rows.iter().map(cell).collect();
            columns.push(Column::new(vec![metric.with_unit()], cells));
        }
        let verdicts = rows.iter().map(|choice| choice.verdict.word().to_owned()).collect();
        columns.push(Column::new(vec!["targets".to_owned()], verdicts));
        let seeds = rows.iter().map(|choice| choice.seeds.to_string()).collect();
        columns.push(Column::new(vec!["seeds".to_owned()], seeds));
        let states = rows.iter().map(|choice| choice.state.clone()).collect();
        let mut states = Column::new(vec!["state".to_owned()], states);
        states.alignment = CellAlignment::Left;
        columns.push(states);
        columns
    }

    fn lists(&self) -> Vec<(&'static str, &[String])> {
        let lists = [("Rests on", &self.rests_on), ("Not tried", &self.not_tried)];
        let lists = lists.into_iter().filter(|(_, lines)| !lines.is_empty());
        lists.map(|(title, lines)| (title, lines.as_slice())).collect()
    }

    /// How much was simulated.
    fn effort(&self) -> String {
        let Simulations { search, rest, grid } = self.simulations;
        let share = 100.0 * search as f64 / grid.max(1) as f64;
        format!(
            "{search} simulations to find it, {} % of the {grid} of a full grid (up to {} seeds each), \
             and {rest} for the rest of this report.",
            short(share),
            self.seeds.len()
        )
    }

    /// What a fleet takes, and its price where there are prices.
    fn bill(&self, choice: &Choice) -> String {
        match self.counts_hours() {
            true => choice.cost.fleet(),
            false => {
                let price = self.money(choice.cost.per_hour);
                format!("{price} an hour for {}", choice.cost.fleet())
            }
        }
    }

    /// Whether costs are hours of what the fleet has, in place of money.
    fn counts_hours(&self) -> bool {
        [GPU_HOURS, WORKER_HOURS].contains(&self.unit.as_str())
    }

    fn money(&self, amount: f64) -> String {
        format!("{} {}", short(amount), self.unit)
    }
}

/// A share in percent, without needless digits.
fn percent(share: f64) -> String {
    format!("{} %", (share * 1e6).round() / 1e4)
}

/// A metric with the bounds that are asked for.
fn value(reading: &Reading, bounds: Option<[f64; 2]>) -> String {
    let [mean] = shown(reading, [reading.mean]);
    match bounds.map(|bounds| shown(reading, bounds)) {
        Some([low, high]) => format!("{mean} ({low} to {high})"),
        None => mean,
    }
}

/// Values of a metric as they are shown, without its unit.
fn shown<const N: usize>(reading: &Reading, values: [f64; N]) -> [String; N] {
    let metric = Metric::of(&reading.metric);
    values.map(|value| short(metric.shown(value)))
}

/// All metrics of a choice in words, each with its `bounds`.
fn readings(choice: &Choice, mut bounds: impl FnMut(&Reading) -> Option<String>) -> String {
    let one = |reading: &Reading| {
        let metric = Metric::of(&reading.metric);
        let bounds = bounds(reading).map_or(String::new(), |bounds| format!(" ({bounds})"));
        let [mean] = shown(reading, [reading.mean]);
        let value = format!("{mean} {}", metric.unit);
        format!("{} {}{bounds}", metric.label, value.trim_end())
    };
    choice.readings.iter().map(one).collect::<Vec<_>>().join(", ")
}
