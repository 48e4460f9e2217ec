//! The whole way from files to batches, as an agent goes it.

#[cfg(test)]
mod batches;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod indexing;
#[cfg(test)]
mod records;
#[cfg(test)]
mod site;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod support;
