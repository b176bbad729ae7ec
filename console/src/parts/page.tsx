import { Breadcrumb, BreadcrumbItem, Content, Flex, FlexItem, PageSection, Title } from '@patternfly/react-core';
import { type ReactNode, useEffect } from 'react';
import { Link } from 'react-router';

interface Props {
  title: string;
  /** What stands beside the title. */
  badge?: ReactNode;
  actions?: ReactNode;
  /** The list that it is of. */
  parent?: [string, string];
  hint?: string;
  children: ReactNode;
}

/** A view: its title, which is the document's too, what can be done, and what is shown. */
export const View = ({ title, badge, actions, parent, hint, children }: Props) => {
  useEffect(() => {
    document.title = `${title} · Whimbrel`;
  }, [title]);
  return (
    <>
      <PageSection aria-label={title}>
        {parent && (
          <Breadcrumb>
            <BreadcrumbItem>
              <Link to={parent[0]}>{parent[1]}</Link>
            </BreadcrumbItem>
            <BreadcrumbItem isActive>{title}</BreadcrumbItem>
          </Breadcrumb>
        )}
        <Flex justifyContent={{ default: 'justifyContentSpaceBetween' }}>
          <FlexItem>
            <Title headingLevel="h1" className="words">
              {title} {badge}
            </Title>
          </FlexItem>
          {actions && <FlexItem>{actions}</FlexItem>}
        </Flex>
        {hint && <Content component="small">{hint}</Content>}
      </PageSection>
      {children}
    </>
  );
};
