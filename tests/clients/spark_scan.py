"""spark_scan.py (TABLE_URL SQL)…: runs each SQL in Spark, where its Delta table is called t; one JSON object a row."""

import os
import sys

from pyspark.sql import SparkSession

if __name__ == "__main__":
    asked = sys.argv[1:]
    delta = "org.apache.spark.sql.delta"
    options = {
        "spark.jars": os.environ["SPARK_JARS"],
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": f"{delta}.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in options.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    for url, sql in zip(asked[::2], asked[1::2]):
        spark.read.format("delta").load(url).createOrReplaceTempView("t")
        for row in spark.sql(sql).toJSON().collect():
            print(row)
    spark.stop()
