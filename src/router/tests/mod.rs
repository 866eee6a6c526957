//! Laws of the front end, the feed, the settings and the simple policies.

mod feed;
mod front_end;
mod golden;
mod llmd;
mod parameters;
mod policies;
mod rivals;
mod selection;
mod settings;
mod wrappers;
