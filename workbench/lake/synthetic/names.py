"""Invented names: common given and family names, combined at random."""

from __future__ import annotations

from collections.abc import Mapping

GIVEN_F: Mapping[str, str] = {
    "hispanic": "Maria Guadalupe Sofia Isabella Camila Valeria Rosa Ana Elena Luz Carmen Daniela Marisol Ximena Yolanda Esperanza",
    "white": "Emily Hannah Karen Laura Megan Nancy Olivia Rachel Susan Tiffany Brooke Paige Linda Joanne Ashley Holly",
    "asian": "Mai Linh Xiu Mei Hye-jin Pa Kalia Thuy Lan Priya Simran Yan Ka Grace Jasmine Soo",
    "black": "Aaliyah Imani Keisha Latoya Monique Nia Tanisha Denise Ebony Jada Kiara Simone Zuri Tamika Gloria Brianna",
    "aian": "Dawn Kaya Summer Winona Rain Aiyana Nita Sierra Cheyenne Dakota Faith Ruth Lena Marie Ada Rose",
    "nhpi": "Leilani Sina Mele Lupe Ana Malia Tiare Lani Losa Moana Nani Kalani Tina Vika Ofa Seini",
}
GIVEN_M: Mapping[str, str] = {
    "hispanic": "Jose Luis Carlos Juan Miguel Diego Mateo Santiago Angel Jesus Hector Rafael Ramon Adrian Emilio Ernesto",
    "white": "Michael James Robert Kyle Tyler Brian Scott Mark Jason Eric Dylan Cody Gary Wayne Paul Logan",
    "asian": "Minh Tuan Wei Jun Tou Kou Vang Harpreet Raj Hyun Bao Long Kevin Andrew Chue Anh",
    "black": "Darnell Jamal Malik Terrence Andre Marcus DeShawn Isaiah Xavier Tyrone Elijah Jerome Curtis Reggie Kobe Trevon",
    "aian": "Hunter Cody Ray Virgil Leon Chase River Wade Clayton Elias Amos Joseph Vernon Dale Ross Stanley",
    "nhpi": "Kai Sione Tevita Keoni Manu Pita Semisi Makoa Sefo Ikaika Tavita Viliami Kimo Mosese Alika Tana",
}
FAMILY: Mapping[str, str] = {
    "hispanic": "Garcia Hernandez Lopez Martinez Gonzalez Ramirez Torres Flores Rivera Vasquez Mendoza Castillo Ortega Salazar Cisneros Padilla Valdovinos Zamora Quintero Ibarra",
    "white": "Miller Anderson Olson Baker Carlson Fisher Hughes Peterson Reed Walker Bennett Foster Young Price Petrosyan Sarkisian Novak Keller Doyle Hart",
    "asian": "Nguyen Tran Pham Chen Wong Lee Xiong Vang Yang Thao Kim Park Singh Gill Reyes Cruz Liu Huang Moua Lor",
    "black": "Washington Jackson Robinson Coleman Brooks Banks Jefferson Booker Freeman Hayes Simmons Dixon Boyd Gaines Ellison Rhodes Tate Sims Mosley Pratt",
    "aian": "Begay Whitehorse Yazzie Benally Redfern Silva Joaquin Pico Brown Bear Stone Moody Lowry Peters Thom Jim Sam Bill Snow Rivers",
    "nhpi": "Kealoha Tuiasosopo Faleafa Taufa Kahale Mahoe Fonoti Leota Tupou Havili Kekoa Palakiko Sefo Moala Tago Vea Akana Kama Fifita Lolo",
}
BORROWED = {"multiple": "white", "unknown": "hispanic"}
"""Groups without lists of their own."""

STREETS = "Almond Bayview Cedar Dogwood Elderberry Foothill Grove Hawthorn Juniper Laurel Manzanita Oleander Poppy Quail Redbud Sycamore Toyon Vineyard Willow Yarrow"
STREET_KINDS = "St Ave Rd Ln Way Ct"
