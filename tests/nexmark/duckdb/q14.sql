SELECT auction, bidder, 0.908::DOUBLE * price AS price,
       CASE WHEN extract(hour FROM event_time) BETWEEN 8 AND 18 THEN 'day'
            WHEN extract(hour FROM event_time) <= 6 OR extract(hour FROM event_time) >= 20 THEN 'night'
            ELSE 'other' END AS bid_time_type,
       length(extra) - length(replace(extra, 'c', '')) AS c_counts
FROM   bid
WHERE  0.908 * price > 1000000 AND 0.908 * price < 50000000
