"""Annotated pictures as people have them, read as label maps: COCO, labelme, CVAT, Label Studio, YOLO, PNG masks."""
