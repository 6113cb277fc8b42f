//! nginx, Apache httpd, Tomcat and Go's net/http over the same files, each with a log
//! of what it was asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use mesh_tests::{APP_PORT, Pod, World};

/// Where Debian has it.
const TOMCAT: &str = "/usr/share/tomcat10";
const MODULES: &str = "/usr/lib/apache2/modules";

fn dir(world: &World, pod: &Pod) -> PathBuf {
    world.dir().join(format!("server-{}", pod.name))
}

/// What it was asked so far, a line each.
pub(crate) fn log(world: &World, pod: &Pod) -> String {
    fs::read_to_string(dir(world, pod).join("asked.log")).unwrap_or_default()
}

/// The server that the pod has its name of.
pub(crate) fn server(world: &mut World, pod: &Pod) -> Result<()> {
    let at = dir(world, pod);
    for (file, text) in [
        ("www/secret/x.txt", "kept-by-the-agent"),
        ("www/open/y.txt", "open"),
        ("www/secretary/x.txt", "open"),
        ("www/clear", "clear"),
        ("www/over", "over"),
        ("www/smuggled", "kept-by-the-agent"),
        ("admin/open/y.txt", "kept-by-the-agent"),
        ("admin/index.html", "kept-by-the-agent"),
    ] {
        let file = at.join(file);
        fs::create_dir_all(file.parent().unwrap_or(&at))?;
        fs::write(&file, format!("{text}\n"))?;
    }
    let command = match pod.name.as_str() {
        "nginx" => nginx(world, pod, &at)?,
        "apache" => apache(world, pod, &at)?,
        "tomcat" => tomcat(world, pod, &at)?,
        "golang" => golang(world, pod, &at)?,
        other => bail!("no server {other}"),
    };
    world.start_server(pod, APP_PORT, command)
}

fn nginx(world: &World, pod: &Pod, at: &Path) -> Result<Command> {
    let (file, dir) = (at.join("nginx.conf"), at.display());
    let text = format!(
        "user root; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  log_format asked '$request';\n  access_log {dir}/asked.log asked;\n  \
         client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n  \
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n  \
         error_page 405 =200 $uri;\n  \
         server {{ listen {APP_PORT} default_server; root {dir}/www; }}\n  \
         server {{ listen {APP_PORT}; server_name admin.test; root {dir}/admin; }}\n}}\n"
    );
    fs::write(&file, text)?;
    let mut command = world.in_pod(pod, "nginx");
    command.arg("-e").arg(at.join("error.log"));
    command.arg("-p").arg(at).arg("-c").arg(&file);
    command.args(["-g", "daemon off;"]);
    Ok(command)
}

fn apache(world: &World, pod: &Pod, at: &Path) -> Result<Command> {
    let (file, dir) = (at.join("httpd.conf"), at.display());
    let text = format!(
        "ServerRoot {dir}\nServerName main.test\nListen {APP_PORT}\nPidFile {dir}/pid\n\
         LoadModule mpm_event_module {MODULES}/mod_mpm_event.so\n\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         LoadModule mime_module {MODULES}/mod_mime.so\n\
         TypesConfig /dev/null\nUser www-data\nGroup www-data\n\
         ErrorLog {dir}/error.log\nLogFormat \"%r\" asked\nCustomLog {dir}/asked.log asked\n\
         <Directory {dir}>\n  Require all granted\n</Directory>\n\
         <VirtualHost *:{APP_PORT}>\n  ServerName main.test\n  DocumentRoot {dir}/www\n</VirtualHost>\n\
         <VirtualHost *:{APP_PORT}>\n  ServerName admin.test\n  DocumentRoot {dir}/admin\n</VirtualHost>\n"
    );
    fs::write(&file, text)?;
    let mut command = world.in_pod(pod, "apache2");
    command.args(["-D", "FOREGROUND", "-f"]).arg(&file);
    Ok(command)
}

fn tomcat(world: &World, pod: &Pod, at: &Path) -> Result<Command> {
    let dir = at.display();
    for place in ["conf", "logs", "temp", "work"] {
        fs::create_dir_all(at.join(place))?;
    }
    let log = |file: &str| {
        format!(
            "<Valve className=\"org.apache.catalina.valves.AccessLogValve\" directory=\"{dir}\" \
             prefix=\"{file}\" suffix=\".log\" rotatable=\"false\" buffered=\"false\" pattern=\"%r\"/>"
        )
    };
    let server = format!(
        "<Server port=\"-1\"><Service name=\"Catalina\">\n\
         <Connector port=\"{APP_PORT}\" protocol=\"HTTP/1.1\"/>\n\
         <Engine name=\"Catalina\" defaultHost=\"localhost\">\n{}\n\
         <Host name=\"localhost\" appBase=\"none\" autoDeploy=\"false\">\
         <Context path=\"\" docBase=\"{dir}/www\"/></Host>\n\
         <Host name=\"admin.test\" appBase=\"none\" autoDeploy=\"false\">\
         <Context path=\"\" docBase=\"{dir}/admin\"/></Host>\n\
         </Engine></Service></Server>\n",
        log("asked")
    );
    fs::write(at.join("conf/server.xml"), server)?;
    let web = "<web-app xmlns=\"https://jakarta.ee/xml/ns/jakartaee\" version=\"6.0\">\n\
         <servlet><servlet-name>default</servlet-name>\
         <servlet-class>org.apache.catalina.servlets.DefaultServlet</servlet-class></servlet>\n\
         <servlet-mapping><servlet-name>default</servlet-name><url-pattern>/</url-pattern></servlet-mapping>\n\
         </web-app>\n";
    fs::write(at.join("conf/web.xml"), web)?;
    let mut command = world.in_pod(pod, "java");
    command.args([
        "-Xmx128m",
        "-cp",
        &format!("{TOMCAT}/bin/bootstrap.jar:{TOMCAT}/bin/tomcat-juli.jar"),
        &format!("-Dcatalina.home={TOMCAT}"),
        &format!("-Dcatalina.base={dir}"),
        &format!("-Djava.io.tmpdir={dir}/temp"),
        "org.apache.catalina.startup.Bootstrap",
        "start",
    ]);
    Ok(command)
}

fn golang(world: &World, pod: &Pod, at: &Path) -> Result<Command> {
    let program = at.join("golang");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites/servers/golang.go");
    let built = mesh_tests::go()
        .args(["build", "-o"])
        .args([program.as_path(), source.as_path()])
        .env("CGO_ENABLED", "0")
        .output()
        .context("run Go")?;
    if !built.status.success() {
        bail!("{}", String::from_utf8_lossy(&built.stderr));
    }
    let mut command = world.in_pod(pod, &program.to_string_lossy());
    command.arg(APP_PORT.to_string()).arg(at);
    Ok(command)
}
