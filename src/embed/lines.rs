//! One line of texts per tenant, and whose turn it is.
//!
//! The tenant that has been served the fewest tokens is next. One that comes anew starts level with the one served last, so
//! that nobody saves up turns by staying away (start-time fair queueing, Goyal et al. 1996).

use std::collections::VecDeque;
use std::sync::Arc;

use super::queue::{Call, Item};
use crate::types::TenantId;

/// Tenants with texts before, at or after the tokeniser; few at a time, so they are looked through.
pub(super) struct Lines<T> {
    lines: Vec<Line<T>>,
    /// What the tenant served last had been served before that: the least of all that are here.
    served: u64,
}

struct Line<T> {
    tenant: TenantId,
    /// Before the tokeniser.
    texts: VecDeque<Texts<T>>,
    /// After it.
    items: VecDeque<Item>,
    /// Tokens the model has been given.
    served: u64,
    /// Texts the tokeniser has been given.
    tokenised: u64,
}

/// Texts (or pairs of texts) of one caller on their way to the tokeniser.
pub(super) struct Texts<T> {
    pub texts: Vec<T>,
    pub call: Arc<Call>,
}

impl<T> Line<T> {
    fn waiting(&self) -> usize {
        self.items.len() + self.texts.iter().map(|texts| texts.texts.len()).sum::<usize>()
    }

    fn newest_call(&self) -> Option<Arc<Call>> {
        let untouched = self.texts.back().map(|texts| &texts.call);
        untouched.or(self.items.back().map(|item| &item.call)).cloned()
    }
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), served: 0 }
    }
}

impl<T> Lines<T> {
    pub(super) fn push(&mut self, tenant: &TenantId, texts: Texts<T>) {
        self.line(tenant).texts.push_back(texts);
    }

    pub(super) fn push_items(&mut self, tenant: &TenantId, items: impl Iterator<Item = Item>) {
        self.line(tenant).items.extend(items);
    }

    /// The texts that are tokenised next, and whose they are.
    pub(super) fn next_texts(&mut self) -> Option<(TenantId, Texts<T>)> {
        let waiting = self.lines.iter_mut().filter(|line| !line.texts.is_empty());
        let line = waiting.min_by_key(|line| line.tokenised)?;
        let texts = line.texts.pop_front()?;
        line.tokenised += texts.texts.len() as u64;
        Some((line.tenant.clone(), texts))
    }

    /// The item that goes to the model next; `None` when there is none, or it has more than `room` tokens.
    pub(super) fn next_item(&mut self, room: usize) -> Option<Item> {
        let waiting = self.lines.iter_mut().filter(|line| !line.items.is_empty());
        let line = waiting.min_by_key(|line| line.served)?;
        let tokens = line.items.front()?.tokens.ids.len();
        if tokens > room {
            return None;
        }
        self.served = line.served;
        line.served += tokens as u64;
        let item = line.items.pop_front();
        self.forget_idle();
        item
    }

    /// Tenants here, with that one counted among them.
    pub(super) fn tenants_with(&self, tenant: &TenantId) -> usize {
        let here = self.lines.iter().filter(|line| line.waiting() > 0 && line.tenant != *tenant).count();
        here + 1
    }

    /// Texts of a tenant, those at the tokeniser left out.
    pub(super) fn waiting(&self, tenant: &TenantId) -> usize {
        self.lines.iter().find(|line| line.tenant == *tenant).map_or(0, Line::waiting)
    }

    /// Takes out the newest call of the tenant with most texts, if those are more than `share`; gives it, and how many
    /// texts it had here.
    pub(super) fn crowd_out(&mut self, share: usize) -> Option<(Arc<Call>, usize)> {
        let line = self.lines.iter().max_by_key(|line| line.waiting()).filter(|line| line.waiting() > share)?;
        let call = line.newest_call()?;
        let freed = self.drop_calls(|other| std::ptr::eq(other, &*call));
        Some((call, freed))
    }

    /// Takes out the texts of calls; gives how many there were.
    pub(super) fn drop_calls(&mut self, which: impl Fn(&Call) -> bool) -> usize {
        let before: usize = self.lines.iter().map(Line::waiting).sum();
        for line in &mut self.lines {
            line.texts.retain(|texts| !which(&texts.call));
            line.items.retain(|item| !which(&item.call));
        }
        before - self.lines.iter().map(Line::waiting).sum::<usize>()
    }

    #[cfg(test)]
    pub(super) fn tokenised(&self) -> usize {
        self.lines.iter().map(|line| line.items.len()).sum()
    }

    fn line(&mut self, tenant: &TenantId) -> &mut Line<T> {
        let at = self.lines.iter().position(|line| line.tenant == *tenant).unwrap_or_else(|| {
            let present = self.lines.iter().filter(|line| line.waiting() > 0);
            let tokenised = present.map(|line| line.tokenised).min().unwrap_or(0);
            let (texts, items) = (VecDeque::new(), VecDeque::new());
            self.lines.push(Line { tenant: tenant.clone(), texts, items, served: self.served, tokenised });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }

    /// Lets go of tenants that have nothing here any more and are not ahead of the others.
    fn forget_idle(&mut self) {
        let least = self.lines.iter().filter(|line| line.waiting() > 0).map(|line| line.served).min();
        self.lines.retain(|line| line.waiting() > 0 || least.is_some_and(|least| line.served > least));
    }
}
