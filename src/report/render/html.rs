//! The report: one page that holds everything about a result set and asks
//! nothing of any network. It can be read without scripts, and printed; it turns
//! dark where a dark page is preferred, and has one panel per row on narrow
//! screens. A small script inside the page shows values below the pointer.

use super::answer::{answer, cautions};
use super::columns::{Column, html as table};
use super::table::{
    cell_columns, head, mean_error_columns, policy_columns, policy_notes, published_notes,
};
use super::{by_pool, why};
use crate::experiment::results::{SavedRuns, Summary};
use crate::report::judge::answer::pairings;
use crate::report::judge::published::Comparison;
use crate::report::judge::terms::Terms;
use crate::report::judge::tuning::Tuning;
use crate::report::view::details::Details;
use crate::report::view::{POLICY, View, plain};
use crate::settings::Invalid;
use comfy_table::CellAlignment;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeMap;

/// The file of a result folder that holds the report.
pub const REPORT_FILE: &str = "report.html";

/// A figure of the report.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Tells it from the others; letters, digits, `_` and `-`.
    pub name: &'a str,
    /// Its heading.
    pub title: &'a str,
    /// What it shows, in words.
    pub alt: &'a str,
    /// The figure: an `svg` element.
    pub svg: &'a str,
    /// The same for narrow screens.
    pub narrow: &'a str,
}

/// Everything that the page is made of.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The results.
    pub summary: &'a Summary,
    /// What else was saved of them.
    pub details: &'a Details,
    /// How they were made.
    pub runs: &'a SavedRuns,
    /// In the order of the page.
    pub pictures: &'a [Picture<'a>],
    /// Rules of style that the figures share.
    pub picture_rules: &'a str,
}

/// Rows of the table of policies; beyond that `summary.csv` is the better place.
const MOST_ROWS: usize = 400;

impl Page<'_> {
    /// The page as HTML.
    ///
    /// # Errors
    /// If the metric that was tuned for is not in the results.
    pub fn to_html(&self) -> Result<String, Invalid> {
        let Self { summary, details, .. } = *self;
        let view = View::new(summary, None)?;
        let published = details.published.as_ref();
        let comparison = published.map(|published| Comparison::new(&view, published));
        let comparison = comparison.as_ref().filter(|comparison| !comparison.is_empty());
        let terms = Terms::of(details);
        let answer = self.answer(&view, &terms)?;
        let why = why::is_measured(&view);
        let has_pools = !by_pool::pools(&view).is_empty();
        let name = &summary.provenance.experiment;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (name) " - simulated" }
                    style { (PreEscaped(RULES)) (PreEscaped(self.picture_rules)) }
                }
                body {
                    header {
                        h1 { (name) }
                        @if !details.description.is_empty() { p .lead { (details.description) } }
                        p { (head(summary).trim()) }
                        nav aria-label="Contents" { ul {
                            li { a href="#answer" { "Answer" } }
                            @if !self.pictures.is_empty() { li { a href="#figures" { "Figures" } } }
                            li { a href="#numbers" { "Numbers" } }
                            @if comparison.is_some() { li { a href="#accuracy" { "Accuracy" } } }
                            @if has_pools { li { a href="#pools" { "Pools" } } }
                            @if why { li { a href="#why" { "Why" } } }
                            li { a href="#settings" { "Settings" } }
                            li { a href="#reproduce" { "How to reproduce" } }
                        } }
                    }
                    main {
                        (section("answer", "Answer", &answer))
                        @if !self.pictures.is_empty() {
                            (section("figures", "Figures", &self.figures()))
                        }
                        (section("numbers", "Numbers", &numbers(&view, &terms)))
                        @if let Some(comparison) = comparison {
                            (section("accuracy", "Accuracy", &accuracy(comparison)))
                        }
                        @if has_pools { (section("pools", "Pools", &served(&view))) }
                        @if why { (section("why", "Why", &reasons(&view))) }
                        (section("settings", "Settings", &self.settings()))
                        (section("reproduce", "How to reproduce", &self.reproduce()))
                    }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        Ok(page.into_string() + "\n")
    }

    fn answer(&self, view: &View<'_>, terms: &Terms) -> Result<Markup, Invalid> {
        if let Some(metric) = &self.details.tuned_for {
            return Ok(tuned(&Tuning::new(self.summary, metric)?, terms));
        }
        let (cautions, sentences) = (cautions(view, terms), answer(view, terms));
        let compares = !pairings(view, terms).is_empty();
        Ok(html! {
            (warned(&cautions))
            @for sentence in &sentences { p { (sentence) } }
            @if !compares {
                p { "One policy was run: there is nothing to compare it with." }
            } @else if self.summary.provenance.seeds.len() > 1 {
                p .note {
                    "A difference is a win or a loss if its 95 % interval, paired by seed, leaves out 0, "
                    "and if it is " (terms.worth) " % (points of ratios) or more. The interval says what "
                    "other seeds would find, not how true the simulation is."
                }
            }
        })
    }

    fn figures(&self) -> Markup {
        html! { @for picture in self.pictures {
            figure id={ "figure-" (picture.name) } {
                h3 { (picture.title) }
                div .wide { (PreEscaped(without_style(picture.svg))) }
                div .narrow { (PreEscaped(without_style(picture.narrow))) }
                figcaption { (picture.alt) }
            }
        } }
    }

    fn settings(&self) -> Markup {
        let text = self.experiment();
        html! {
            @if self.summary.points.len() > 1 {
                (table("What was varied", &varied(self.summary), 1))
            }
            details open[text.lines().count() <= 80] {
                summary {
                    "Everything that was set, as an experiment file; what is not there has its default. "
                    "Paths start in the folder of the original."
                }
                pre tabindex="0" { (text.trim_end()) }
            }
        }
    }

    /// The experiment as a file that runs again, overrides included.
    fn experiment(&self) -> String {
        let Details { description, settings, .. } = self.details;
        let mut file = serde_json::Map::new();
        file.insert("name".to_owned(), self.summary.provenance.experiment.clone().into());
        if !description.is_empty() {
            file.insert("description".to_owned(), description.clone().into());
        }
        if let Some(sections) = settings["settings"].as_object() {
            file.extend(sections.clone());
        }
        let axes = settings["sweep"].as_array().into_iter().flatten();
        let axes = axes.filter_map(|axis| Some((axis[0].as_str()?.to_owned(), axis[1].clone())));
        let sweep: serde_json::Map<String, serde_json::Value> = axes.collect();
        if !sweep.is_empty() {
            file.insert("sweep".to_owned(), sweep.into());
        }
        let text = toml::Value::try_from(&file).ok();
        let text = text.and_then(|file| toml::to_string(&file).ok());
        text.unwrap_or_else(|| settings.to_string())
    }

    fn reproduce(&self) -> Markup {
        let provenance = &self.summary.provenance;
        let mut command = format!("sim run {}", shell_word(&self.runs.experiment));
        for change in &self.runs.overrides {
            command += &format!(" --set {}", shell_word(change));
        }
        let seeds: Vec<String> = provenance.seeds.iter().map(u64::to_string).collect();
        html! {
            p { "The same version, experiment and seeds give the same bytes:" }
            pre tabindex="0" { (command) }
            dl {
                dt { "Version" } dd { "sim " (provenance.version) }
                dt { "Seeds" } dd { (seeds.join(", ")) }
                dt { "Digest of everything that could be seen" } dd { code { (provenance.digest) } }
                dt { "Hash of the configuration" } dd { code { (provenance.config_hash) } }
                @for (policy, versions) in &provenance.follows {
                    dt { "Policy " code { (policy) } }
                    @for version in versions { dd { "as in " (version) } }
                }
            }
        }
    }
}

/// What has to be known before the rest is read.
fn warned(cautions: &[String]) -> Markup {
    html! { @if !cautions.is_empty() {
        div .caution role="note" { @for caution in cautions { p { (caution) } } }
    } }
}

/// The answer of a sweep.
fn tuned(tuning: &Tuning<'_>, terms: &Terms) -> Markup {
    let fronts = tuning.front_head();
    html! {
        (warned(&tuning.cautions(terms)))
        @for case in &tuning.cases {
            @for sentence in tuning.sentences(case, terms) { p { (sentence) } }
            @if fronts.is_some() {
                @let (columns, left_out) = tuning.front_columns(case);
                @let place = tuning.conditions_of(case);
                (table(&format!("Pareto front{}", at(&place)), &columns, 1))
                @if left_out > 0 { p .note { "and " (left_out) " more" } }
            }
        }
        @if let Some(head) = fronts { p .note { (head) } }
    }
}

fn at(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(" at {place}") }
}

fn section(id: &str, title: &str, content: &Markup) -> Markup {
    html! {
        section id=(id) aria-labelledby={ (id) "-title" } {
            h2 id={ (id) "-title" } { (title) }
            (content)
        }
    }
}

fn numbers(view: &View<'_>, terms: &Terms) -> Markup {
    let (mut columns, metrics) = policy_columns(view, terms);
    let headings = columns.len();
    columns.extend(metrics);
    let rows = columns.iter().map(Column::len).max().unwrap_or(0);
    if rows > MOST_ROWS {
        return html! { p { "Too many points for a page: summary.csv has them." } };
    }
    html! {
        (table("Means over seeds, and how policies differ", &columns, headings))
        @for note in policy_notes(view, terms) { p .note { (note) } }
    }
}

fn accuracy(comparison: &Comparison<'_>) -> Markup {
    let cells = cell_columns(comparison);
    let headings = if comparison.view.axis.is_some() { 2 } else { 1 };
    let caption = "Mean absolute error against the published numbers (cells counted)";
    html! {
        (table(caption, &mean_error_columns(comparison), 1))
        (table("Published / simulated (error)", &cells, headings))
        @for note in published_notes(comparison) { p .note { (note) } }
    }
}

/// What each pool of workers served.
fn served(view: &View<'_>) -> Markup {
    let (mut columns, groups) = by_pool::columns(view);
    let headings = columns.len();
    columns.extend(groups.into_iter().flatten());
    html! {
        (table("Requests by pool of workers", &columns, headings))
        p .note { (by_pool::NOTE) }
    }
}

fn reasons(view: &View<'_>) -> Markup {
    let (mut columns, groups) = why::columns(view);
    let headings = columns.len();
    columns.extend(groups.into_iter().flatten());
    html! {
        (table("Load imbalance, and hits lost against an unlimited shared cache", &columns, headings))
        p .note { (why::NOTE) }
    }
}

/// Every swept key with its values.
fn varied(summary: &Summary) -> Vec<Column> {
    let mut keys: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, value) in summary.points.iter().flat_map(|point| &point.params) {
        let values = keys.entry(key.as_str()).or_default();
        let value = plain(value);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    keys.retain(|key, values| values.len() > 1 || *key == POLICY);
    let names = keys.keys().map(|key| (*key).to_owned()).collect();
    let values = keys.values().map(|values| values.join(", ")).collect();
    let mut columns = [("key", names), ("values", values)]
        .map(|(head, cells)| Column::new(vec![head.to_owned()], cells));
    for column in &mut columns {
        column.alignment = CellAlignment::Left;
    }
    columns.into()
}

/// A figure without its own rules of style: the page has them once.
fn without_style(svg: &str) -> String {
    match (svg.find("<style>"), svg.find("</style>")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &svg[..from], &svg[to + 8..]),
        _ => svg.to_owned(),
    }
}

/// As a POSIX shell reads it back.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+%@".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Shows the value nearest to the pointer.
const SCRIPT: &str = include_str!("hover.js");

const RULES: &str = "\
:root{--paper:#fff;--ink:#222;--pencil:#555;--line:#d4d7dc;--shade:#f5f6f8;--link:#005a9c}\
@media screen and (prefers-color-scheme:dark){:root{--paper:#15181d;--ink:#e6e8eb;--pencil:#a4abb5;\
--line:#3a414b;--shade:#1d2127;--link:#7cc0f5}}\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:66rem;padding:1.5rem;background:var(--paper);color:var(--ink);\
font:16px/1.5 system-ui,'Helvetica Neue',Arial,sans-serif}\
h1{font-size:1.8rem;margin:0}h2{margin:2.5rem 0 .75rem;border-bottom:1px solid var(--line)}\
h3{margin:0 0 .5rem;font-size:1rem}a{color:var(--link)}.lead{font-size:1.1rem}\
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;padding:0;list-style:none}\
figure{margin:0 0 2.5rem;break-inside:avoid}figure svg{display:block;max-width:100%;height:auto}\
.narrow{display:none}.spots .near{stroke:var(--ink);stroke-width:6}\
.caution{border-left:4px solid #c77700;padding:.1rem .9rem;margin:0 0 1rem;background:var(--shade)}\
.tip{position:fixed;z-index:1;padding:.2rem .5rem;background:var(--ink);color:var(--paper);\
font-size:.8125rem;border-radius:3px;pointer-events:none;max-width:20rem}\
@media screen and (max-width:600px){body{padding:.75rem}.wide{display:none}.narrow{display:block}\
.narrow svg{width:100%}h1{font-size:1.4rem;overflow-wrap:anywhere}}\
figcaption,.note{color:var(--pencil);font-size:.875rem}.note{margin:.5rem 0}\
.scroll{overflow-x:auto;margin:0 0 1rem}\
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}\
caption{text-align:left;font-weight:600;padding:.25rem 0}\
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}\
th{font-weight:600;vertical-align:bottom}tbody th{font-weight:400}\
.left{text-align:left}.right{text-align:right}\
pre{background:var(--shade);border:1px solid var(--line);padding:.75rem;overflow-x:auto;font-size:.8125rem}\
dt{font-weight:600}dd{margin:0 0 .5rem;overflow-wrap:anywhere}\
@media print{body{max-width:none;padding:0;font-size:10pt}nav{display:none}.scroll{overflow:visible}\
table{font-size:7pt}th,td{padding:.1rem .25rem;white-space:normal}pre{white-space:pre-wrap}}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::results::SCHEMA_VERSION;
    use crate::report::example;
    use proptest::prelude::*;
    use serde_json::json;

    const SVG: &str = "<svg role=\"img\"><style>svg{}</style><text>a</text></svg>";

    fn details(published: bool) -> Details {
        Details {
            schema_version: SCHEMA_VERSION,
            description: "What <was> run & why".to_owned(),
            settings: json!({ "settings": { "cluster": { "workers": 3 } }, "sweep": {} }),
            published: published.then(example::doks_published),
            tuned_for: None,
            max_num_seqs: 64,
            distributions: Vec::new(),
            workers_over_time: Vec::new(),
            fleets_over_time: None,
            worth: 1.0,
            remarks: vec!["All clients start <at> once.".to_owned()],
        }
    }

    fn page(summary: &Summary, details: &Details) -> String {
        let runs = SavedRuns {
            schema_version: SCHEMA_VERSION,
            experiment: "it's here.toml".to_owned(),
            overrides: vec!["measure.seeds=2".to_owned(), "a=[\"b\"]".to_owned()],
            digests: Vec::new(),
        };
        let picture =
            Picture { name: "ttft_ms", title: "TTFT", alt: "lines <of> it", svg: SVG, narrow: SVG };
        let pictures = [picture, Picture { name: "itl_ms", ..picture }];
        let page =
            Page { summary, details, runs: &runs, pictures: &pictures, picture_rules: "svg{}" };
        page.to_html().unwrap()
    }

    /// Every element is closed in order, and nothing comes from elsewhere.
    fn check(html: &str) {
        let mut open: Vec<&str> = Vec::new();
        // Signs of comparison in the script are no tags.
        let elements = html.replace(SCRIPT, "");
        for (at, _) in elements.match_indices('<') {
            let html = elements.as_str();
            let tag = &html[at + 1..at + html[at..].find('>').expect("a tag that ends")];
            let name = tag.split([' ', '/']).find(|part| !part.is_empty()).expect("a name");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "...{}", &html[..at + 20]);
            } else if !tag.ends_with('/') && !["meta", "!DOCTYPE"].contains(&name) {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
        let page = html.replace("http://www.w3.org/2000/svg", "");
        assert_eq!(page.matches("<script").count(), 1, "the one that shows values");
        for word in [
            "src=",
            "fetch(",
            "XMLHttpRequest",
            "import(",
            "<link",
            "<img",
            "<iframe",
            "@import",
            "url(",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        for reference in page.match_indices("href=\"").map(|(at, _)| &page[at + 6..]) {
            assert!(reference.starts_with('#'), "{}", &reference[..40]);
            let id = &reference[1..reference.find('"').expect("a quote")];
            assert!(page.contains(&format!("id=\"{id}\"")), "{id} leads nowhere");
        }
    }

    #[test]
    fn the_page_has_everything_that_was_saved() {
        let summary = example::doks();
        let html = page(&summary, &details(true));
        check(&html);
        let view = View::new(&summary, None).unwrap();
        let said = answer(&view, &Terms::default()).remove(0);
        for part in [
            said.as_str(),
            "What &lt;was&gt; run &amp; why",
            "id=\"figure-ttft_ms\"",
            "id=\"figure-itl_ms\"",
            "lines &lt;of&gt; it",
            "All clients start &lt;at&gt; once.",
            "[cluster]\nworkers = 3",
            "sim run 'it'\\''s here.toml' --set measure.seeds=2 --set 'a=[&quot;b&quot;]'",
            &summary.provenance.digest,
            &summary.provenance.config_hash,
            "1, 2, 3, 4, 5, 6",
            "Mean absolute error against the published numbers",
            "not counted:",
            "60, 80, 100, 120, 140, 160, 180",
        ] {
            assert!(html.contains(part), "{part}");
        }
        // Every table says what it shows and names its columns and rows.
        let tables = html.matches("<table>").count();
        assert!(tables >= 4, "{tables}");
        assert_eq!(html.matches("<caption>").count(), tables);
        assert_eq!(html.matches("<thead>").count(), tables);
        assert!(html.matches("<th scope=\"row\"").count() > 14);
        // The rules that figures share are there once.
        assert_eq!(html.matches("<style>").count(), 1);
    }

    #[test]
    fn rows_below_a_load_are_headed_by_it_too() {
        let html = page(&example::doks(), &details(false));
        let heads = html.matches("<th scope=\"row\" class=\"right\">120</th>").count();
        assert_eq!(heads, 3, "round_robin, kv, and their difference");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_result_set_gives_a_page(summary in example::any_summary(), published: bool) {
            check(&page(&summary, &details(published)));
        }
    }
}
