--! kind = "stream"
-- Sessions: how many bids a bidder made without ten seconds of rest.
SELECT bidder, session(event_time, INTERVAL '10 seconds') AS w, count(*) AS bids
FROM   bid
GROUP BY bidder, session(event_time, INTERVAL '10 seconds')
