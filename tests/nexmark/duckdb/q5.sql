SELECT epoch_us(w) AS w, auction, bids, most
FROM  (SELECT w, auction, count(*) AS bids, max(count(*)) OVER (PARTITION BY w) AS most
       FROM  (SELECT auction, unnest([time_bucket(INTERVAL '2 seconds', event_time) - n * INTERVAL '2 seconds' FOR n IN range(5)]) AS w
              FROM bid)
       GROUP BY w, auction)
WHERE bids = most
