//! Rounds, merging, durable store, server and operator's command line.
