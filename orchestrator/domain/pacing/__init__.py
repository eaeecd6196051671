"""Pacing: when API calls may be sent, at which intervals jobs are polled, and backoff.

The cloud counts calls per (action, host, sub-account) in one-second windows, by its own clock and
by time of arrival. It refuses calls above the quota. The goals are to use the quota fully, to
exceed it hardly ever, and to learn from refusals without overreacting to noise.

N permits (``quota.Quota``). An action with a quota of N calls per second has N permits. A call
takes one permit and gives it back one second after its reply, minus the round-trip discount. No
window of one second then receives more than N calls, unless the network becomes more than 5 %
faster than its shortest recent round trip.

The round-trip discount. Two calls on one permit must *arrive* at least one second apart. Between
the two arrivals lie the way back of the first reply and the way there of the next call. Together
they take at least one shortest round trip, so 95 % of the shortest recent round trip is subtracted.
Without the discount, only 76 % of a quota are used if a round trip takes 200 ms (jitter 100 ms).
The discount applies once replies have arrived in eight different seconds.

The allowed rate (``quota.AllowedRate``). Calls are refused even though the permits keep the quota
if another client uses the same quota or the whole account has a limit. One refusal is noise,
unless its message names the limit: the rate then drops to that. If
more than 6 % of the calls of the last 5 s were refused, the rate drops by the refused share; it
climbs by 1.5 % of the configured rate per second. The rate spaces the calls, and never changes the
number of permits.

What can fail, and what holds then:

* No reply arrives (reset, timeout): the permit is given back one second after the failure.
* A restart, or a takeover by another replica: it is not known which calls were sent just before, so
  all permits count as spent for one second.
* A network delay affects all calls of one moment and none of the next. So that it is not mistaken
  for the shortest round trip, one round trip per second counts, and several seconds are required.

``polling`` chooses the intervals between polls by cost and expected information; ``backoff`` is the
wait after failures.
"""
