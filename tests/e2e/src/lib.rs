//! Kronos as its callers meet it: only through the gateway. The journeys of the six callers, told step by step; `demo`
//! plays them against a platform that is up, the end-to-end tests against one of their own.

pub mod api;
pub mod gaia;
pub mod journey;
pub mod sse;
