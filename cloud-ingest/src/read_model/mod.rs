//! Beside the line: what people read off the store. Pure: the store's rows in, words out.

pub mod audit;
pub mod confirmed;
pub mod controller;
pub mod explain;
pub mod forecast;
pub mod lag;
pub mod ledger;
pub mod proof;
pub mod rewound;
pub mod tap_list;
